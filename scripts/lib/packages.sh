# Sourced by environment.sh: what a script needs of the machine, found or installed through apt.
#
#   ensure python mosquitto postgresql?
#
# root on Debian or Ubuntu: what is missing is installed, all of it by one apt-get. Anybody else is told the one command
# for an administrator, and the script ends with exit code 69. A need with `?` is said to be missing, and ends nothing.
# PYTHON names the interpreter; without it the first Python that serves is taken.

UNAVAILABLE=69
PYTHON_AT_LEAST=3.10
ENVIRONMENT=.venv # an environment that is whole needs no other Python
# Through `su` root has no sbin in PATH, and dpkg wants it.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { echo "$(basename "$0"): $*" >&2; }

# Can this interpreter make an environment with pip in it? Tried, because Debian splits venv, ensurepip and their
# wheels over packages. Prints the interpreter itself, not an environment's link to it. FIRST and BELOW limit its version.
usable_python() { # PYTHON [FIRST BELOW]
    local base scratch worked=
    base=$("$1" -I -c '
import ctypes, ensurepip, sqlite3, ssl, sys, venv
first, below = (tuple(map(int, text.split("."))) for text in sys.argv[1:])
print(getattr(sys, "_base_executable", "") or sys.executable)
sys.exit(not first <= sys.version_info[:2] < below)' "${2:-$PYTHON_AT_LEAST}" "${3:-4.0}" 2>/dev/null) || return 1
    scratch=$(mktemp -d) || return 1
    "$base" -I -m venv "$scratch/try" >/dev/null 2>&1 && "$scratch/try/bin/python" -I -m pip --version >/dev/null 2>&1 &&
        worked=yes
    rm -rf "$scratch"
    [ -n "$worked" ] && echo "$base"
}

# Prints the interpreter to make an environment with; 1 when there is none.
find_python() { # [FIRST BELOW]
    local name path
    if [ -n "${PYTHON:-}" ]; then
        usable_python "$PYTHON" "$@"
        return
    fi
    if [ $# = 0 ] && [ -x "${MODELFLEET_TRIED_PYTHON:-}" ]; then
        echo "$MODELFLEET_TRIED_PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        while read -r path; do
            usable_python "$path" "$@" && return
        done < <(type -aP "$name")
    done
    return 1
}

have_python() {
    environment_state "$ENVIRONMENT" any >/dev/null && return
    MODELFLEET_TRIED_PYTHON=$(find_python) && export MODELFLEET_TRIED_PYTHON # the scripts called from here do not try again
}
have_buildah() { command -v buildah >/dev/null; }
have_debootstrap() { command -v debootstrap >/dev/null; }
have_mosquitto() { command -v mosquitto >/dev/null; }
have_chromium() { command -v chromium >/dev/null; }
have_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }
have_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

what_is() {
    case $1 in
        python) echo "Python $PYTHON_AT_LEAST or newer that can make virtual environments" ;;
        mosquitto) echo "the broker Mosquitto" ;;
        chromium) echo "the browser Chromium" ;;
        *) echo "$1" ;;
    esac
}

packages_of() {
    case $1 in
        python) echo python3 python3-venv ;;
        mosquitto) echo mosquitto mosquitto-clients ;;
        *) echo "$1" ;;
    esac
}

# Installs these packages. Nothing that they bring is started: a service would hold a port for everybody.
apt_install() { # PACKAGE...
    local policy=/usr/sbin/policy-rc.d lists=0
    # It forbids only while this script runs, whatever ends it.
    if [ ! -e $policy ] || grep -qs modelfleet $policy; then
        printf '#!/bin/sh\n# modelfleet: no service starts while its packages are installed.\n[ ! -d /proc/%s ] || exit 101\n' \
            $$ > $policy && chmod 755 $policy
    fi
    # No cluster of the package's own: the tests make theirs in a temporary folder.
    if [[ " $* " == *" postgresql "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
    fi
    local get=(apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false)
    DEBIAN_FRONTEND=noninteractive dpkg --configure -a >/dev/null || true # what an interrupted installation left
    DEBIAN_FRONTEND=noninteractive "${get[@]}" update >/dev/null || lists=$?
    [ $lists = 0 ] || say "apt-get update ended with $lists; going on with the lists that are here"
    DEBIAN_FRONTEND=noninteractive "${get[@]}" install -y "$@" >/dev/null # what fails is on stderr
    local code=$?
    ! grep -qs modelfleet $policy || rm -f $policy
    return $code
}

# One at a time on this machine: apt refuses a second one that reads its lists.
apt_install_alone() { (flock -w 900 9 && apt_install "$@") 9> /run/modelfleet-apt.lock; }

ensure() { # NEED[?]...
    local need lacking=() packages=() required=
    for need in "$@"; do
        "have_${need%\?}" && continue
        lacking+=("$need")
        # shellcheck disable=SC2207 # names of packages have no spaces
        packages+=($(packages_of "${need%\?}"))
    done
    [ ${#lacking[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        if [[ " ${lacking[*]} " != *" python "* ]] || [ -z "${PYTHON:-}" ]; then
            say "installing ${packages[*]} through apt"
            apt_install_alone "${packages[@]}" || say "apt could not install ${packages[*]}: see above"
        fi
    fi
    for need in "${lacking[@]}"; do
        "have_${need%\?}" && continue
        if [ "$need" = python ] && [ -n "${PYTHON:-}" ]; then
            say "PYTHON=$PYTHON does not serve: it must be $(what_is python) with pip, ssl and sqlite3"
        else
            say "missing here: $(what_is "${need%\?}")"
        fi
        [ "${need%\?}" != "$need" ] || required=yes
    done
    [ -n "$required" ] || return 0
    if [[ " ${lacking[*]} " == *" python "* ]] && [ -n "${PYTHON:-}" ]; then
        say "name another interpreter, or let PYTHON be unset"
    elif [ "$(id -u)" != 0 ] && command -v apt-get >/dev/null; then
        say "let an administrator run this once as root, then try again:"
        echo "    apt-get update && apt-get install -y ${packages[*]}" >&2
    elif [[ " ${lacking[*]} " == *" python "* ]]; then
        say "install it, or name an interpreter elsewhere: PYTHON=/path/to/python3"
    else
        say "install it and put it on PATH (Debian calls it: ${packages[*]})"
    fi
    exit $UNAVAILABLE
}
