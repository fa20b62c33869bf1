"""What the CUDA example computes, against the same model in NumPy, in double precision.

    test_train_cuda.py TRAINER

The trainer resumes from one checkpoint after the other; at each, the loss that it prints and every
number in the store, as the independent reader finds it, are compared.  On the fake runtime, which
counts copies, none may be missing: no tensor went another way.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools"))
import ckpt_read  # noqa: E402

BATCH, CONTEXT, EMBED = 64, 16, 32
SHAPES = {"embed": (256, EMBED), "hidden.weight": (CONTEXT * EMBED, 256), "hidden.bias": (1, 256),
          "out.weight": (256, 256), "out.bias": (1, 256)}
SCALES = {"embed": 1, "hidden.weight": 0.06, "hidden.bias": 0, "out.weight": 0.06, "out.bias": 0}
STEPS = (0, 1, 2, 20)
RATE, DECAY = 1e-3, 0.01


def mix(x):
    x = np.asarray(x, np.uint64)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
    return (x ^ x >> np.uint64(31)).astype(np.uint32).astype(np.int64)


def text_at(at):
    word = mix(at // 6 + 77) % 41
    return np.where(at % 6 == 5, ord(" "), ord("a") + mix(word * 8 + at % 6) % 26)


def batch(step):
    """The bytes that are seen, and those to be predicted."""
    start = mix(step * BATCH + np.arange(BATCH) + 1) % 1000000
    text = text_at(start[:, None] + np.arange(CONTEXT + 1))
    return text[:, :CONTEXT], text[:, CONTEXT]


class Model:
    def __init__(self):
        self.step = 0
        self.p = {}
        for seed, (name, shape) in enumerate(SHAPES.items()):
            some = mix(seed * 1000003 + np.arange(np.prod(shape))) & 0xffffff
            self.p[name] = ((some / 0x800000 - 1) * SCALES[name]).reshape(shape)
        self.m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        self.v = {name: np.zeros(shape) for name, shape in SHAPES.items()}

    def loss(self, step):
        """The mean over the batch of a step, and its gradients."""
        p, (seen, target) = self.p, batch(step)
        x = p["embed"][seen].reshape(BATCH, -1)
        h = np.tanh(x @ p["hidden.weight"] + p["hidden.bias"])
        logits = h @ p["out.weight"] + p["out.bias"]
        logits -= logits.max(axis=1, keepdims=True)
        likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        at_target = likely[np.arange(BATCH), target]
        d = (likely - np.eye(256)[target]) / BATCH
        dh = d @ p["out.weight"].T * (1 - h ** 2)
        embed = np.zeros(SHAPES["embed"])
        np.add.at(embed, seen, (dh @ p["hidden.weight"].T).reshape(BATCH, CONTEXT, EMBED))
        return -np.log(at_target).mean(), {
            "embed": embed, "hidden.weight": x.T @ dh, "hidden.bias": dh.sum(axis=0, keepdims=True),
            "out.weight": h.T @ d, "out.bias": d.sum(axis=0, keepdims=True)}

    def train_to(self, step):
        while self.step < step:
            self.step += 1
            for name, g in self.loss(self.step)[1].items():
                self.m[name] = 0.9 * self.m[name] + 0.1 * g
                self.v[name] = 0.999 * self.v[name] + 0.001 * g ** 2
                m = self.m[name] / (1 - 0.9 ** self.step)
                v = self.v[name] / (1 - 0.999 ** self.step)
                self.p[name] -= RATE * (m / (np.sqrt(v) + 1e-8) + DECAY * self.p[name])


def run_trainer(trainer, store, step):
    ran = subprocess.run([trainer, "--store", store, "--steps", str(step)], check=False,
                         capture_output=True, text=True)
    if ran.returncode == 77:
        print(ran.stdout.strip())
        sys.exit(77)
    copies = re.search(r"fake devices: (\d+) copies", ran.stderr)
    found = re.match(rf"step {step} loss ([\d.]+) ", ran.stdout)
    assert ran.returncode == 0 and found, ran.stdout + ran.stderr
    return float(found[1]), int(copies[1]) if copies else None


def compare(model, store, step):
    """Nothing is further off than a thousandth of the tensor's largest number."""
    root = pathlib.Path(store)
    held = ckpt_read.Checkpoint(root, *ckpt_read.find(root, f"train-cuda@{step}"))
    for suffix, all_wanted in (("", model.p), (".exp_avg", model.m), (".exp_avg_sq", model.v)):
        for name, wanted in all_wanted.items():
            got = np.frombuffer(held.tensor(name + suffix), np.float32).reshape(wanted.shape)
            off = np.abs(got - wanted).max() / np.abs(wanted).max()
            assert off < 1e-3, f"step {step}: {name + suffix} is off by {off:.2e}"


def main(trainer):
    model, tensors, cases = Model(), 3 * len(SHAPES), 0
    with tempfile.TemporaryDirectory() as store:
        for step in STEPS:
            loss, copies = run_trainer(trainer, store, step)
            resumed = model.step > 0
            model.train_to(step)
            wanted = model.loss(0)[0]
            print(f"step {step}: loss {loss:.6f}, {wanted:.6f} wanted")
            assert abs(loss - wanted) < 1e-4
            # read for the line that it prints; saved and audited; restored
            least = tensors + 1 + 2 * tensors * (step > 0) + tensors * resumed
            assert copies is None or copies >= least, f"{copies} copies, {least} wanted"
            if step > 0:
                compare(model, store, step)
                cases += tensors
    print(f"{cases} cases")


main(sys.argv[1])
