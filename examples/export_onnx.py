"""Export `(A^3)B` to one ONNX file that continues sequences at any number of rounds.

`serve_onnx.py` runs the file without rinsc. The weights here are fresh, so its text means nothing.

    $ python export_onnx.py
    $ python serve_onnx.py
"""

import rinsc

model = rinsc.to_torch(rinsc.model_spec("(A^3)B", preset="tiny", layers=2, vocab_size=256))
onnx_model = rinsc.to_onnx(model, "dynamic", cache=True)
onnx_model.save("model.onnx")
print([value.name for value in onnx_model.ir.graph.inputs][:3])
