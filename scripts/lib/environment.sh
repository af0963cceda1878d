# Sourced, in the checkout: virtual environments that are whole or recreated, and (packages.sh) what the machine needs.
#
#   lock_environment FILE; begin_environment FOLDER WANT [FIRST BELOW]; pip_into FOLDER install ...; finish_environment FOLDER WANT
#
# WANT says what belongs into the environment (a hash of the locks). While it is worked on it has no stamp, so whatever
# interrupts the work leaves an environment that the next try knows as half-made.

. scripts/lib/packages.sh

# Is it there, sound, for the wanted interpreter, and of WANT? 0; 3: sound, of something else; other: no. Prints why not.
environment_state() { # FOLDER WANT
    local version=
    [ -e "$1" ] || { echo "it is not there"; return 1; }
    [ -z "${PYTHON:-}" ] || version=$("$PYTHON" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        { echo "PYTHON=$PYTHON cannot be run"; return 1; }
    "$1/bin/python" -I -c '' 2>/dev/null || { echo "its interpreter cannot be run"; return 1; }
    "$1/bin/python" -I scripts/lib/whole.py "$1" "$2" "$version"
}

# One at a time; held until the script ends.
lock_environment() { # FILE
    mkdir -p "$(dirname "$1")" 2>/dev/null && { exec 9> "$1"; } 2>/dev/null || {
        say "$PWD/$1 cannot be written by $(id -un 2>/dev/null || id -u): use a folder of your own"
        exit 73
    }
    flock -n 9 || {
        say "another one is at work here; waiting for it"
        flock -w 1800 9 || { say "it did not end within 30 minutes"; exit 75; }
    }
}

# FOLDER is an environment with pip, and not finished: kept when it is sound, else recreated.
begin_environment() { # FOLDER WANT [FIRST BELOW]
    local folder=$1 want=$2 state=0 why python
    shift 2
    why=$(environment_state "$folder" "$want") || state=$?
    if [ $state = 0 ] || [ $state = 3 ]; then
        rm -f "$folder/.modelfleet-lock"
        return
    fi
    if [ -e "$folder" ] || [ -L "$folder" ]; then
        [ -L "$folder" ] || [ -e "$folder/pyvenv.cfg" ] ||
            [ -z "$(ls -A "$folder" | grep -vxE 'bin|include|lib|lib64|share|\.modelfleet-lock')" ] || {
            say "$folder is there and is no virtual environment: move it away"
            exit 73
        }
    fi
    python=$(find_python "$@") || { say "${PYTHON:+PYTHON=$PYTHON is named, and }no Python here can make the environment $folder"; exit $UNAVAILABLE; }
    if [ -e "$folder" ] || [ -L "$folder" ]; then
        say "$folder is of no use ($why); recreating it"
        rm -rf "$folder"
    fi
    "$python" -I -m venv "$folder"
}

# pip of that environment, whatever the user's own settings say about where packages go.
pip_into() { # FOLDER ARGUMENT...
    local folder=$1
    shift
    env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT PIP_USER=0 \
        "$folder/bin/python" -I -m pip --quiet --disable-pip-version-check "$@"
}

finish_environment() { # FOLDER WANT
    printf '%s\n' "$2" > "$1/.modelfleet-lock"
}
