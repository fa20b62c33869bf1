"""What others do with the same bytes in the same directory, at equal durability.

usage: peers.py DIR BYTES
Prints a JSON array: {"name", "save_s", "load_s"} or {"name", "missing": why}.  Saves are
fsynced (files and directory); loads are cold (page cache dropped) into touched memory.
Medians of three runs."""
import json
import os
import shutil
import statistics
import sys
import time

TENSOR_BYTES = 64 << 20
RUNS = 3


def sync_tree(folder):
    for path, _dirs, names in os.walk(folder):
        for name in [os.path.join(path, n) for n in names] + [path]:
            fd = os.open(name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def drop_caches(folder):
    sync_tree(folder)
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3")
    except OSError:
        for path, _dirs, names in os.walk(folder):
            for name in names:
                fd = os.open(os.path.join(path, name), os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


def measure(name, folder, save, load):
    saves, loads = [], []
    for _ in range(RUNS):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        started = time.perf_counter()
        save(folder)
        sync_tree(folder)
        saves.append(time.perf_counter() - started)
        drop_caches(folder)
        started = time.perf_counter()
        load(folder)
        loads.append(time.perf_counter() - started)
    shutil.rmtree(folder)
    return {"name": name, "save_s": statistics.median(saves), "load_s": statistics.median(loads)}


def touched(state):
    """Reads a byte of each page: what was only mapped is loaded now."""
    return sum(int(t.view(-1)[::4096].sum()) for t in state.values())


def torch_save(torch, state, folder):
    path = "state.pt"
    return measure("torch.save", folder,
                   lambda d: torch.save(state, os.path.join(d, path)),
                   lambda d: touched(torch.load(os.path.join(d, path), weights_only=True)))


def torch_dcp(torch, state, folder):
    import torch.distributed.checkpoint as dcp
    into = {k: torch.ones_like(t) for k, t in state.items()}
    return measure("torch.distributed.checkpoint", folder,
                   lambda d: dcp.save(state, storage_writer=dcp.FileSystemWriter(d), no_dist=True),
                   lambda d: dcp.load(into, storage_reader=dcp.FileSystemReader(d), no_dist=True))


def safetensors(_torch, state, folder):
    from safetensors.torch import load_file, save_file
    path = "state.safetensors"
    return measure("safetensors", folder,
                   lambda d: save_file(state, os.path.join(d, path)),
                   lambda d: touched(load_file(os.path.join(d, path))))


def main():
    folder, size = os.path.join(sys.argv[1], "peers"), int(sys.argv[2])
    peers = {"torch.save": torch_save, "torch.distributed.checkpoint": torch_dcp,
             "safetensors": safetensors}
    try:
        import torch
    except ImportError:
        print(json.dumps([{"name": n, "missing": "torch is not installed"} for n in peers]))
        return
    state = {f"tensor.{i:05d}": torch.randint(0, 256, (TENSOR_BYTES,), dtype=torch.uint8)
             for i in range(max(1, size // TENSOR_BYTES))}
    results = []
    for name, peer in peers.items():
        try:
            results.append(peer(torch, state, folder))
        except ImportError as why:
            results.append({"name": name, "missing": f"not installed ({why.name})"})
        except (RuntimeError, OSError, TypeError) as why:
            results.append({"name": name, "missing": f"failed: {why}"})
    print(json.dumps(results))


main()
