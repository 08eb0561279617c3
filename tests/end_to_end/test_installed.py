"""The wheel alone, away from any checkout: every command, from a folder of somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ANIMALS = ["heron", "otter", "badger", "lizard", "salmon", "beetle", "falcon", "rabbit"]
TEMPLATES = {
    "habitat": "where does the {} live and sleep",
    "food": "what does the {} like to eat",
    "sound": "which noises does the {} make at night",
    "size": "how tall and heavy is a grown {}",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder, ROOT]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with nothing in it but the installed wheel."""
    folder = tmp_path_factory.mktemp("installed")
    install = ["install", "--no-deps", "--no-index", "--quiet", "--target", folder, wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of inputs, which is where everything is run."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        f"{template.format(a)},{label}" for label, template in TEMPLATES.items() for a in ANIMALS
    ]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "phrases.txt").write_text("\n".join(ANIMALS) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(installed, work, tmp_path_factory):
    """Runs a command of the installed package; gives what it printed."""
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    environment |= {
        "PYTHONPATH": str(installed),
        "PYTHONSAFEPATH": "1",
        "LIGHTWEIGHT_DECODER_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }

    def run(*words, program=(sys.executable, installed / "bin" / "lightweight-decoder")):
        done = subprocess.run(
            [*program, *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def bank(run):
    run("build-bank", "input=phrases.txt", "output=bank", "trainer.accelerator=cpu")
    return "bank"


@pytest.fixture(scope="module")
def trained(run):
    run(
        "train",
        "data=labelled_text",
        "data.train=train.csv",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
    )
    return "run"


def test_the_wheel_is_one_package_with_its_configuration(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"lightweight_decoder"}
    configured = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    within = "lightweight_decoder/"
    packed = {name.removeprefix(within) for name in names if name.startswith(f"{within}conf/")}
    assert packed == configured
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_source_archive_has_all_that_a_change_needs(tmp_path):
    build = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    folders = (ROOT / name for name in ("conf", "docs", "scripts", "src", "tests"))
    kept = {path for folder in folders for path in folder.rglob("*.*") if path.is_file()}
    expected = {str(path.relative_to(ROOT)) for path in kept if "__pycache__" not in path.parts}
    assert packed >= expected | {"LICENSE", "README.md", "pyproject.toml", "train.py"}


def test_the_version_is_that_of_the_wheel(run, wheel):
    assert run("--version") == f"lightweight-decoder {wheel.name.split('-')[1]}\n"


def test_a_bank_is_built_and_decodes_a_sentence_and_a_file(run, bank, work):
    printed = run("decode", f"bank={bank}", "text=an otter", "trainer.accelerator=cpu", "top_k=1")
    answers = [line for line in printed.splitlines() if line.startswith("│")]
    assert len(answers) == 1
    assert "otter" in answers[0]
    words = ["input=bank/vectors.npy", "output=o.jsonl", "top_k=1", "trainer.accelerator=cpu"]
    as_module = (sys.executable, "-m", "lightweight_decoder")
    run("decode", f"bank={bank}", *words, program=as_module)
    answers = [json.loads(line) for line in (work / "o.jsonl").read_text().splitlines()]
    assert [answer["phrases"] for answer in answers] == [[animal] for animal in ANIMALS]


def test_a_run_is_trained_and_evaluated_to_the_same_metrics(run, trained, work, installed):
    metrics = json.loads((work / trained / "metrics.json").read_text())
    record = (work / trained / ".hydra" / "hydra.yaml").read_text()
    assert f"path: {installed}/lightweight_decoder/conf\n" in record
    run("evaluate", f"run_dir={trained}", "output=again", "trainer.accelerator=cpu")
    again = json.loads((work / "again" / "metrics.json").read_text())
    for name in ("test/baseline/mrr", "test/decoder/mrr", "test/decoder/num_queries"):
        assert again[name] == pytest.approx(metrics[name], rel=1e-6)
    assert (work / "again" / "report.html").stat().st_size > 10_000


def test_a_decoder_is_calibrated(run, bank, work):
    random = np.random.default_rng(0)
    vectors = np.load(work / bank / "vectors.npy")
    right = random.integers(len(ANIMALS), size=200)
    noise = 0.5 * random.standard_normal((200, vectors.shape[1])).astype(np.float32)
    np.save(work / "queries.npy", vectors[right] + noise)
    (work / "targets.txt").write_text("".join(f"{ANIMALS[i]}\n" for i in right))
    files = ["queries=queries.npy", "targets=targets.txt", "output=decoder.ckpt"]
    run("calibrate", f"bank={bank}", *files, "trainer.accelerator=cpu")
    words = ["input=queries.npy", "output=sure.jsonl", "trainer.accelerator=cpu"]
    run("decode", "checkpoint=decoder.ckpt", *words)
    answers = [json.loads(line) for line in (work / "sure.jsonl").read_text().splitlines()]
    is_right = np.array(
        [a["phrases"][0] == ANIMALS[i] for a, i in zip(answers, right, strict=True)]
    )
    confidence = np.array([answer["confidence"] for answer in answers])
    assert 0.3 < is_right.mean() < 1
    assert confidence.mean() == pytest.approx(is_right.mean(), abs=0.05)
    assert confidence[is_right].mean() > confidence[~is_right].mean()


def test_the_doctor_reports(run):
    report = json.loads(run("doctor", "accelerator=cpu", "format=json"))
    assert report["plan"]["accelerator"] == "cpu"
