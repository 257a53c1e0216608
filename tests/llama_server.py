"""llama.cpp's own server, as a process: `python -m tests.llama_server FILE.gguf PORT`; serves until it is killed.

`float32` makes a file of which it computes in float32: of quantised weights it rounds activations too.
"""

import sys
import threading
from pathlib import Path

import gguf
import numpy as np


def float32(quantised: Path, path: Path) -> Path:
    """The same model with its weights as they are after dequantising, at `path`."""
    read = gguf.GGUFReader(quantised)
    fields = {name: field for name, field in read.fields.items() if not name.startswith("GGUF.")}
    write = gguf.GGUFWriter(path, fields.pop("general.architecture").contents())
    fields.pop("general.file_type", None)
    for name, field in fields.items():
        of_array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        write.add_key_value(name, field.contents(), field.types[0], sub_type=of_array)
    for tensor in read.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        write.add_tensor(tensor.name, weights.astype(np.float32))
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()
    return path


def main() -> None:
    import xllamacpp

    path, port = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = path, {"small"}
    params.port, params.n_ctx, params.n_parallel, params.warmup = int(port), 4096, 2, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()
