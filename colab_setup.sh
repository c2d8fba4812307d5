#!/usr/bin/env bash
# Sets up MedCLIP helpers; see --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash colab_setup.sh [run | test] [--cpu] [--dry-run]

  (nothing)   set up: make the package importable
  run         set up, then execute all notebooks into runs/, the quickest first
  test        set up, then run all checks and tests
  --cpu       a new environment gets torch without CUDA where PyTorch's own index can be reached:
              0.7 GB to download instead of 3.5
  --dry-run   say what would be installed and where, and stop

Where there is a Python with torch and torchvision (Colab), only what it lacks (on Colab:
requirements-colab.txt) is added to it; torch, torchvision, numpy, transformers, ipywidgets and
IPython stay as they are. Elsewhere everything goes into .venv (current releases) and, for the
tests, into .venv-colab (Colab's versions, constraints/colab.txt) as well. uv installs if it is
there and pip has no index, proxy or certificate set, which uv would ignore; otherwise pip does.

  PYTHON=...  the Python to use, 3.10 to 3.13 (default: python3)
  MEDCLIP_HOME, MEDCLIP_MIRROR   where weights are kept, and a copy to download from
TEXT
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
action=setup dry= cpu=
for argument in "$@"; do
    case $argument in
        run | test) action=$argument ;;
        --dry-run) dry=yes ;;
        --cpu) cpu=yes ;;
        -h | --help) usage && exit 0 ;;
        *) echo "colab_setup.sh: unknown argument '$argument'" >&2 && usage >&2 && exit 2 ;;
    esac
done

fail() {
    printf 'colab_setup.sh: %s\n' "$@" >&2
    exit 1
}

say() { printf '\n== %s\n' "$*"; }

step() { # what it does, and how much there is to download; command
    local start=$SECONDS
    echo "   $1"
    "${@:2}" || return
    echo "   done in $((SECONDS - start)) s"
}

# The two below ask the given Python, so that they match what its pip would do.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
has() { (cd / && "$1" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))" "${@:2}"); }

python=${PYTHON:-python3}
found=$(version_of "$python") || fail "no Python at '$python': install one, or name it with PYTHON="
case $found in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "Python $found at '$python': expected 3.10 to 3.13; name another with PYTHON=" ;;
esac
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac

quiet=yes uv=
[ ! -t 1 ] || quiet=
if command -v uv >/dev/null; then
    settings=$("$python" -m pip config list 2>/dev/null || true)
    [[ $settings =~ index|links|constraint|proxy|cert ]] || uv=yes
fi

with_pip() { # python, then pip's arguments. Doubly quiet: errors, but no warnings
    PIP_ROOT_USER_ACTION=ignore "$1" -m pip install ${quiet:+-qq} --disable-pip-version-check \
        --no-warn-script-location "${@:2}"
}

pip_install() { # the same
    if [ -n "$uv" ]; then
        uv pip install ${quiet:+--quiet} --python "$(command -v "$1")" "${@:2}" && return
        echo "   uv could not install it (its own message is above): now with pip"
    fi
    with_pip "$1" --retries 2 "${@:2}" && return
    fail "pip could not install what is needed (its own message is above)." \
        "If there was no connection: the package index is needed once. For a mirror: PIP_INDEX_URL."
}

# --- an environment that has torch ---------------------------------------------------------------

keep=(torch torchvision numpy transformers ipywidgets IPython)

missing_of() { # requirements file, pyproject.toml: the lines that the Python at hand lacks
    "$python" - "$@" "${keep[@]}" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
file, pyproject, *keep = sys.argv[1:]
lines = [line.split("#")[0].strip() for line in open(file)]
with open(pyproject, "rb") as opened:
    project = tomllib.load(opened)["project"]
lines += project["dependencies"] + project["optional-dependencies"]["notebooks"]
missing = {}
for line in filter(None, lines):
    requirement = Requirement(line)
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        found = None
    if found is not None and found in requirement.specifier:
        continue
    if found is not None and requirement.name in keep:
        sys.exit(f"colab_setup.sh: {line} is needed, {sys.executable} has {found}: "
                 "upgrade it, or name another Python with PYTHON=")
    missing.setdefault(requirement.name, line)
print(*missing.values(), sep="\n")
PYTHON
}

add() { # pip's arguments: into the Python at hand, whose own versions of the above stay
    local kept
    kept=$(mktemp)
    "$python" - "${keep[@]}" >"$kept" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
PYTHON
    pip_install "$python" --constraint "$kept" "$@"
    rm -f "$kept"
}

add_to_environment() {
    local missing site lines=()
    missing=$(missing_of "$here/requirements-colab.txt" "$here/pyproject.toml")
    say "Python $found at $(command -v "$python") has torch: adding ${missing:-nothing}" | tr '\n' ' '
    echo
    [ -z "$cpu" ] || echo "   --cpu is for a new environment: this one keeps its torch"
    [ -z "$dry" ] || exit 0
    while read -r line; do lines+=("$line"); done <<<"$missing"
    [ -z "$missing" ] || step "what is missing: on Colab some 35 MB to download" add "${lines[@]}"
    # Not editable: an editable install is seen only by kernels that start after it.
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    if ! diff -rq -x __pycache__ "$here/medclip_helpers" "$site/medclip_helpers" >/dev/null 2>&1; then
        rm -rf "$here"/build/{lib,bdist.*} # of an earlier version, which would be installed too
        step "medclip_helpers from $here" pip_install "$python" --no-deps --force-reinstall "$here"
    fi
}

# --- an environment of our own -------------------------------------------------------------------

cpu_index=https://download.pytorch.org/whl/cpu

new_environment() { # python, folder; with pip in it
    [ -n "$uv" ] && uv venv ${quiet:+--quiet} --seed --python "$(command -v "$1")" "$2" && return
    rm -rf "$2"
    "$1" -m venv "$2" || fail "could not make $2 (on Debian: apt-get install python3-venv)"
}

cpu_torch() { # python, constraints file or nothing
    local pins=
    [ -z "$2" ] || pins=$(grep -E "^torch(vision)?==" "$2")
    # From this index alone: one of the two with CUDA and one without would not work together
    # shellcheck disable=SC2086
    (
        # what pip.conf says of the way there, but none of its indexes
        PIP_PROXY=${PIP_PROXY:-$("$1" -m pip config get global.proxy 2>/dev/null || true)}
        PIP_CERT=${PIP_CERT:-$("$1" -m pip config get global.cert 2>/dev/null || true)}
        [ -z "$PIP_PROXY" ] || export PIP_PROXY
        [ -z "$PIP_CERT" ] || export PIP_CERT
        export PIP_CONFIG_FILE=/dev/null
        unset PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
        with_pip "$1" --retries 1 --timeout 10 --index-url "$cpu_index" \
            ${pins:-torch torchvision} 2>/dev/null
    )
}

make_environment() { # python, folder, constraints file or nothing
    local base=$1 folder=$here/$2 constraints=${3:-} stamp free extras=notebooks,labeller,dicom,test
    local size="3.5 GB to download, 7 GB on disk" needed=9
    stamp=$( (cat "$here/pyproject.toml" ${constraints:+"$constraints"} && version_of "$base") | cksum)
    say "Python $(version_of "$base") in $2${cpu:+, torch for CPUs}${constraints:+, versions of Colab}"
    [ -z "$dry" ] || return 0
    if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
        echo "   already there${cpu:+ (--cpu is for a new one: rm -r $2 first)}"
        return
    fi
    rm -rf "$folder"
    step "a new environment${uv:+, with uv}" new_environment "$base" "$folder"
    if [ -n "$cpu" ]; then
        if step "torch for CPUs: 0.2 GB to download" \
            cpu_torch "$folder/bin/python" "$constraints"; then
            size="0.5 GB to download, 3 GB on disk" needed=4
        else
            echo "   not available at $cpu_index: the default torch instead, which runs on CPUs too"
        fi
    fi
    free=$(df -Pk "$here" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge $needed ] || fail "$free GiB free under $here: this needs $needed GiB"
    [ -n "$constraints" ] || extras+=,lab # JupyterLab 4 shows no widgets of Colab's ipywidgets
    # One command: torch and torchvision must be chosen together.
    step "packages: $size" pip_install "$folder/bin/python" \
        ${constraints:+--constraint "$constraints"} \
        --editable "$here[$extras]"
    echo "$stamp" >"$folder/stamp"
}

colab_python() { # the Python of Colab's runtime where there is one, else the default
    local candidate
    for candidate in python3.13 "$HOME"/.pyenv/versions/3.13*/bin/python; do
        if [ "$(version_of "$candidate")" = 3.13 ]; then
            echo "$candidate"
            return
        fi
    done
    echo "$python"
}

if has "$python" torch torchvision; then
    add_to_environment
    newest=
    colab=$python
else
    newest=$here/.venv/bin/python
    colab=$here/.venv-colab/bin/python
    if [ "$action" = test ]; then
        make_environment "$(colab_python)" .venv-colab "$here/constraints/colab.txt"
    fi
    make_environment "$python" .venv
    [ -z "$dry" ] || exit 0
fi

# --- actions -------------------------------------------------------------------------------------

cd "$here"
if [ "$action" = setup ]; then
    say "ready: ${newest:-$python} imports medclip_helpers"
elif [ "$action" = run ]; then
    # The quickest first; a notebook given twice runs once
    exec "${newest:-$python}" -m medclip_helpers run \
        notebooks/{00,01,02,04,03,06}_*.ipynb notebooks/[0-9]*.ipynb --output runs
else
    results=() failed=0
    part() { # title, command
        local start=$SECONDS outcome=passed
        say "$1"
        "${@:2}" || outcome=FAILED failed=1
        results+=("$(printf '%5d s  %-6s  %s' $((SECONDS - start)) $outcome "$1")")
    }
    if [ -z "$newest" ]; then
        has "$colab" pytest xdist nbval ruff importlinter mypy pdoc check_jsonschema || add "$here[test]"
    fi
    part "style of the code" "$colab" -m ruff check .
    part "form of the notebooks" "$colab" tools/format_notebooks.py --check
    part "imports between the rooms" \
        "$colab" -c "from importlinter.cli import lint_imports_command as check; check()"
    part "drawing of the rooms" "$colab" tools/draw_rooms.py --check
    # stubs of current releases; Colab's torch and pandas have types that are wrong
    [ -z "$newest" ] || part "types" "$newest" -m mypy medclip_helpers
    part "reference pages" \
        "${newest:-$colab}" tools/build_reference.py --output build/reference
    # OpenVINO in processes of its own: run with all the others, one ended in a segmentation fault
    alone=(tests/engines/test_openvino.py tests/test_losses.py)
    part "tests, Colab's versions" \
        "$colab" -m pytest -q -n 2 --dist loadscope -m "not notebooks and not browser and not download" \
        "${alone[@]/#/--ignore=}"
    part "tests of the engine and the losses, Colab's versions" \
        "$colab" -m pytest -q -n 2 --dist loadscope "${alone[@]}"
    part "explorer in the classic notebook" "$colab" -m pytest -q -m browser
    [ -z "$newest" ] || part "explorer in JupyterLab" "$newest" -m pytest -q -m browser
    part "notebooks" "$colab" -m pytest -q -m notebooks
    if [ -n "$newest" ]; then
        part "tests, current releases" \
            "$newest" -m pytest -q -n 2 --dist loadscope -m "not notebooks and not browser and not slow and not download" \
            "${alone[@]/#/--ignore=}"
        part "tests of the engine and the losses, current releases" \
            "$newest" -m pytest -q -n 2 --dist loadscope -m "not slow" "${alone[@]}"
    fi
    say "summary"
    printf '%s\n' "${results[@]}"
    exit $failed
fi
