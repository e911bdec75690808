#!/bin/sh
# environments.sh PYTHON TORCH [FOLDER]: an environment for each package that fedmeta is compared with.
# What is there already stays. A package that cannot be installed leaves FOLDER/NAME.failed, with the
# reason, and its rows say so; the others go on.
set -eu
python=$1 torch=$2 folder=${3:-.bench}
here=$(dirname "$0")
mkdir -p "$folder"

install() {  # install NAME WITH_TORCH
    name=$1 pip=$folder/$1/bin/pip log=$folder/$1.log
    [ -e "$folder/$name.installed" ] && return
    rm -rf "${folder:?}/$name" "$folder/$name.failed"
    echo "$name: installing into $folder/$name"
    if ! {
        "$python" -m venv "$folder/$name" &&
            { [ "$2" = no ] || sh "$here/../scripts/install-torch.sh" "$pip" "$torch"; } &&
            "$pip" install --quiet --requirement "$here/requirements/$name.txt"
    } >"$log" 2>&1; then
        { echo "cannot be installed:"; grep -i error "$log" | tail -n1; } |
            tr '\n' ' ' >"$folder/$name.failed"
        rm -rf "${folder:?}/$name"
        cat "$folder/$name.failed"
        return
    fi
    touch "$folder/$name.installed"
}

install jax no
install pfl yes
install fedjax no
