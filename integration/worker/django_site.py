"""A Django project and the packages that it needs, for the stories and the bench of workers."""

import pathlib
import shutil
import subprocess
import tempfile

PACKAGES = ["django>=4.2,<6", "django-mailer>=2.3,<3", "aiosmtpd>=1.4,<2"]


def environment(packages=PACKAGES):
    """A virtual environment with packages from PyPI; the caller removes it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="runner-it-venv."))
    folder.chmod(0o755)
    try:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(folder)], check=True)
        place = next(folder.glob("lib/python3*/site-packages"))
        subprocess.run(["pip3", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore",
                        "--only-binary", ":all:", "--target", str(place), *packages],
                       check=True, stdin=subprocess.DEVNULL, timeout=240)
    except BaseException:
        shutil.rmtree(folder, True)
        raise
    return folder
