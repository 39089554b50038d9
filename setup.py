"""Packaging. The version stands in registryd/__init__.py and nowhere else."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "registryd/__init__.py").read_text(), re.MULTILINE)

setup(
    name="registryd",
    version=VERSION[1] if VERSION else None,
    description="A service registry that tells, right now and truthfully, which instances are alive",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["registryd", "registryd.*"]),
    package_data={"registryd": ["py.typed", "ctl/shipped/*", "static/*"]},
    install_requires=["tornado>=6.5", "msgspec>=0.19", "prometheus-client>=0.22"],
    extras_require={
        "speed": ["httptools>=0.6.4", "uvloop>=0.21"],
        "test": [
            "atheris>=3; platform_machine == 'x86_64'",
            "axe-core-python",
            "fastapi",
            "flask",
            "httptools>=0.6.4",
            "hypothesis",
            "mypy",
            "pytest>=8,<10",
            "pytest-tornasync",
            "pytest-xdist",
            "ruff",
            "schemathesis",
            "selenium>=4.20",
            "shtab==1.13.0",
            "trustme",
            "uvloop>=0.21",
            "uvicorn",
        ],
    },
    entry_points={"console_scripts": ["registryctl = registryd.ctl.cli:main", "registryd = registryd.cli:main"]},
)
