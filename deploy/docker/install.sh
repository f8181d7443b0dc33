#!/bin/sh
# In the build stage: make a virtual environment with raftkv and what it needs, in the versions of constraints.txt.
# The environment gets no pip. usage: install.sh ENVIRONMENT WHEELS
set -eu
environment=$1
wheels=$2

python3 -m venv --without-pip "$environment"
# Which of the two reaches the isolated environment of the build backend depends on pip's version.
PIP_CONSTRAINT=$PWD/constraints.txt
PIP_BUILD_CONSTRAINT=$PIP_CONSTRAINT
PIP_DISABLE_PIP_VERSION_CHECK=1
PIP_NO_CACHE_DIR=1
export PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_DISABLE_PIP_VERSION_CHECK PIP_NO_CACHE_DIR

if ls "$wheels"/*.whl >/dev/null 2>&1; then
    # pip runs from its own wheel: the base image may have none.
    for pip in "$wheels"/pip-*.whl; do :; done
    PYTHONPATH=$pip "$environment/bin/python3" -m pip install --no-index --find-links "$wheels" '/src[cli]'
else
    python3 -m pip --python "$environment/bin/python3" install '/src[cli]'
fi
"$environment/bin/raftkv" --help >/dev/null
