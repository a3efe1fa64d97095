"""Fuzz one target for a while: `python tests/fuzz/fuzz.py text --engine atheris --seconds 600`. Crashing inputs are kept, one per place."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from hashlib import blake2b
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]


class Catcher:
    """Calls a target, counts, and keeps the first input that crashes at each place."""

    def __init__(self, target, name: str, folder: Path) -> None:
        self.target, self.name, self.folder = target, name, folder
        self.runs, self.places = 0, {}

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        try:
            self.target(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # a broken promise is told apart by its cause, anything else by where it was raised
            cause = error.__cause__ or error
            frames = traceback.extract_tb(cause.__traceback__)
            own = [f for f in frames if "toksuite_nb" in f.filename] or frames
            place = f"{type(cause).__name__} {Path(own[-1].filename).name}:{own[-1].name}:{own[-1].lineno}"
            if place not in self.places:
                self.places[place] = str(error)[:300]
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / blake2b(data, digest_size=6).hexdigest()).write_bytes(data)
                print(f"crash of {self.name} at {place}: {str(error)[:300]}", flush=True)


def with_atheris(catch: Catcher, seconds: int, corpus: Path) -> None:
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    for i in range(256):
        (corpus / f"seed-{i}").write_bytes(
            bytes([i, i // 2, i // 3, i % 5, i % 7, i % 3])
            + "The sky is blue; Gökyüzü mavi, 天空是蓝色的 آسمان".encode()
        )
    options = [
        f"-max_total_time={seconds}",
        "-max_len=512",
        "-rss_limit_mb=3000",
        "-timeout=60",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], catch)
    atheris.Fuzz()


def with_hypothesis(catch: Catcher, seconds: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    end = time.monotonic() + seconds
    words = st.text(min_size=1, max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass"))
    head = st.binary(min_size=2, max_size=24)

    @settings(
        max_examples=2000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.tuples(head, words | st.binary(max_size=80)))
    def explore(parts: tuple[bytes, bytes]) -> None:
        if time.monotonic() < end:
            catch(b"".join(parts))

    while time.monotonic() < end:
        explore()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["text", "loaders", "importers"])
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], default="hypothesis")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument(
        "--out", type=Path, default=Path("build/fuzz"), help="folder for crashing inputs and the corpus"
    )
    given = parser.parse_args()
    if given.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["toksuite_nb"]):
            import harness
    else:
        import harness
    catch = Catcher(harness.TARGETS[given.target], given.target, given.out / given.target)
    began = time.monotonic()

    def report() -> None:
        spent = time.monotonic() - began
        print(
            f"{given.target} {given.engine}: {catch.runs} runs in {spent:.0f} s, {len(catch.places)} places that crashed",
            flush=True,
        )

    if given.engine == "atheris":
        import atexit

        atexit.register(report)  # libFuzzer ends the process itself
        with_atheris(catch, given.seconds, given.out / f"corpus-{given.target}")
    else:
        with_hypothesis(catch, given.seconds)
        report()
    return len(catch.places) > 0


if __name__ == "__main__":
    sys.exit(main())
