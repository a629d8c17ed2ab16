// What kind of adapter the browser offers; apart from engine.js, which loads the whole runtime.

/** Whether the adapter computes on the CPU; ./gpu_budget.js asks it of the same adapter. */
export const isSoftware = (info) => window.docintelGpu.isSoftware(info);
