"""Evidence from a real GPU that has no network: pack here, measure there, write docs/gpu.md here.

$ python -m benchmarks.gpu pack --out build/gpu         # parts of at most 60 MB, to be carried there
$ tar -xf part-01.tar && … && python measure.py         # there; again, until all is measured
$ python -m benchmarks.gpu document --results results.json

`measure`, `reader`, `weights` and `memory` go along and run there, with numpy and onnxruntime-webgpu
alone; the others run here.
"""
