"""What setup.cfg cannot say: programs inside the package, absolute links in the description."""

import pathlib
import re

from setuptools import find_packages, setup

# Address of the repository, like https://host/owner/mfcnn. The package index shows the pictures
# and links of README only by it; set it before a release. Until then they stay relative.
REPOSITORY = ""

PROGRAMS = find_packages(include=["experiments", "experiments.*", "tpu", "tpu.*"])


def description(repository: str) -> str:
    """README.md with links to files of the repository made absolute, if its address is known."""
    text = pathlib.Path(__file__).with_name("README.md").read_text()
    if not repository:
        return text
    text = re.sub(r"(!\[[^\]]*\])\((?!https:)", rf"\1({repository}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^\]]*\])\((?!https:)", rf"\1({repository}/blob/main/", text)


if __name__ == "__main__":
    setup(
        long_description=description(REPOSITORY),
        url=REPOSITORY or None,
        packages=[
            *find_packages(include=["mfcnn", "mfcnn.*"]),
            *(f"mfcnn._programs.{name}" for name in PROGRAMS),
        ],
        package_dir={f"mfcnn._programs.{name}": name.replace(".", "/") for name in PROGRAMS},
        package_data={
            "mfcnn": ["py.typed"],
            "mfcnn._programs.experiments": ["*.html"],
            "mfcnn._programs.tpu": ["configs/*.flags"],
        },
        py_modules=["mfcnn_command"],
    )
