"""Metadata lives in pyproject.toml; here: configs/ becomes imagescope/configs in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["imagescope", "imagescope.*"]), "imagescope.configs"],
    package_dir={"imagescope.configs": "configs"},
)
