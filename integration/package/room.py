"""The package, and fresh Debians to install it in."""

import os
import pathlib
import shutil
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BUILD_LIMIT = 600


def build():
    subprocess.run(
        [PROJECT / "packaging/build-deb.sh", "--quick"],
        check=True, stdout=subprocess.PIPE, timeout=BUILD_LIMIT)
    return max((PROJECT / "target/debian").glob("*.deb"), key=os.path.getmtime)


def fresh_root(name, packages):
    """A minimal Debian with these packages, made once; `None` where it cannot be made."""
    root = PROJECT / "target" / name
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    done = subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--mode=root", "--aptopt=Acquire::Languages \"none\"",
         f"--include={','.join(packages)}", "bookworm", root],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    if done.returncode != 0:
        print(f"no fresh root: {done.stdout[-1000:]}", file=sys.stderr)
        return None
    (root / "complete").touch()
    return root
