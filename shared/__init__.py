"""From merged 16-bit weights to a measured WebGPU release: the map of this package.

A folder is a step of the data, and imports only from those above it:

    base/          what knows nothing of models: errors, paths, files, hashing, parsing, manifest, stage
    safety/        what a third party's file, or a folder about to be published, must not be
    setup/         getting a machine ready: browsers, doctor
    domain/        a domain folder, read strictly: settings, records, scoring, olive.json
        grammar/   schema.json → EBNF: what answers are held to
    hub/           the Hugging Face Hub: snapshots come down pinned, a release goes up whole
    source/        stage 1: a rung's weights as a local folder, inspected
    prompt/        the chat template that ships: the same tokens in check, page and card
    olive/         stages 2 and 3: build and package, by Microsoft Olive
        quantise/  weights → 4 bits: nearest, gptq, drift
        graph/     the ONNX graph from Mobius, filled with weights; which architectures are supported
        lint/      rules that a finished graph must keep
        optimum/   the second exporter, in an environment of its own
    evaluate/      stages 4 and 5: fidelity to the 16-bit parent, answers to held-out records
        models/    every runtime: PyTorch, onnxruntime, onnxruntime-genai; masks by a grammar
        scoring/   one answer, one field, one figure with its interval
    webgpu_bench/  stage 6: the package in a real browser, compared with the CPU
    release/       stages 7 to 9: gates, the card, the release folder; signing and verify
    pipeline/      a rung through its stages, the chain, one domain, many, a family, tune, publish, site
    cli/           what people type, and what it prints

Start at pipeline/one_domain.py for a release, at base/stage.py for what a stage is.
"""
