// Runs before anything else on the page and wraps WebGPU, so that every number is counted where the
// call is made: buffers (bytes as requested, live and peak), dispatches, shader modules, errors.
// A classic script on purpose: modules start later.
"use strict";

(() => {
  const SOFTWARE = /swiftshader|llvmpipe|lavapipe|microsoft basic render/i;
  const stats = {
    /** Whether an adapter computes on the CPU: by its own word, or by its name. */
    isSoftware: ({ vendor, architecture, device, description, is_fallback }) =>
      Boolean(is_fallback) || SOFTWARE.test([vendor, architecture, device, description].join(" ")),
    supported: "gpu" in navigator,
    adapter: null,
    device: null,
    budget_bytes: null,
    budget_exceeded: null,
    live_bytes: 0,
    peak_requested_bytes: 0,
    buffers: 0,
    dispatches: 0,
    shader_modules: 0,
    uncaptured_errors: [],
    out_of_memory: null,
    device_lost: null,
    closed: new WeakSet(),
    listeners: new Set(),
  };
  window.docintelGpu = stats;
  if (!stats.supported || typeof GPUDevice === "undefined") return;

  const sizes = new WeakMap();
  const wrap = (type, name, around) => {
    const original = type.prototype[name];
    type.prototype[name] = function (...args) {
      return around.call(this, (...given) => original.apply(this, given), ...args);
    };
  };

  wrap(GPU, "requestAdapter", async function (original, ...args) {
    const adapter = await original(...args);
    if (adapter) stats.adapter = adapter;
    return adapter;
  });

  /** An error that a scope caught counts as well as one that nobody caught. */
  const noticeMemory = (error) => {
    if (error?.constructor?.name === "GPUOutOfMemoryError") stats.out_of_memory ??= error.message || "the GPU's is used up";
  };

  /** A mapped buffer that the page has no memory for is an exception, which the engine words anew. */
  const noticing = (make) => {
    try {
      return make();
    } catch (error) {
      if (error instanceof RangeError) stats.out_of_memory ??= error.message;
      throw error;
    }
  };

  wrap(GPUDevice, "popErrorScope", async function (original) {
    const error = await original();
    noticeMemory(error);
    return error;
  });

  wrap(GPUAdapter, "requestDevice", async function (original, descriptor = {}) {
    const info = { ...named(this.info), is_fallback: this.info.isFallbackAdapter ?? this.isFallbackAdapter };
    const device = await original(stats.isSoftware(info) ? inFloat32(descriptor) : descriptor);
    stats.device = device;
    device.addEventListener("uncapturederror", (event) => {
      const { constructor, message } = event.error;
      stats.uncaptured_errors.push(`${constructor.name}: ${message}`);
      noticeMemory(event.error);
    });
    device.lost.then(({ reason, message }) => {
      // "destroyed": by onnxruntime itself, where a load failed; a device that goes away is "unknown".
      if (reason === "destroyed" || stats.closed.has(device)) return;
      stats.device_lost = { reason, message };
      for (const tell of stats.listeners) tell(stats.device_lost);
    });
    return device;
  });

  const named = ({ vendor, architecture, device, description }) => ({ vendor, architecture, device, description });

  /**
   * What is asked of a software adapter. Where a device has subgroups, onnxruntime's MatMulNBits rounds
   * float32 activations to int8 in blocks of 128, which such an adapter does many times slower, and its
   * attention is wrong from 32 tokens on (docs/how-it-works.md). Without them both are right, in float32.
   */
  const inFloat32 = (descriptor) => {
    const wanted = [...(descriptor.requiredFeatures ?? [])];
    return { ...descriptor, requiredFeatures: wanted.filter((name) => !name.startsWith("subgroup")) };
  };

  const overBudget = (size) => {
    if (stats.budget_bytes === null || stats.live_bytes + size <= stats.budget_bytes) return;
    stats.budget_exceeded ??= { wanted: stats.live_bytes + size, budget: stats.budget_bytes };
    throw new RangeError(
      `a WebGPU buffer of ${size} bytes would pass the budget of ${stats.budget_bytes} bytes`,
    );
  };

  wrap(GPUDevice, "createBuffer", function (original, descriptor) {
    const size = Number(descriptor.size);
    overBudget(size);
    const buffer = noticing(() => original(descriptor));
    sizes.set(buffer, size);
    stats.buffers += 1;
    stats.live_bytes += size;
    stats.peak_requested_bytes = Math.max(stats.peak_requested_bytes, stats.live_bytes);
    return buffer;
  });

  wrap(GPUBuffer, "destroy", function (original) {
    stats.live_bytes -= sizes.get(this) ?? 0;
    sizes.delete(this);
    return original();
  });

  wrap(GPUDevice, "createShaderModule", function (original, descriptor) {
    stats.shader_modules += 1;
    return original(descriptor);
  });

  for (const name of ["dispatchWorkgroups", "dispatchWorkgroupsIndirect"]) {
    wrap(GPUComputePassEncoder, name, function (original, ...args) {
      stats.dispatches += 1;
      return original(...args);
    });
  }
})();
