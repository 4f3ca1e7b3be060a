#!/bin/sh
# Installs the packages of a node type from an unpacked bundle, without network.
# Needs micromamba, mamba, conda or pixi. Exit codes are those of vllm-conda.
set -eu

fail() { # CODE SENTENCE HINT
  printf 'error: %s\n  -> %s\n' "$2" "$3" >&2
  exit "$1"
}

usage() {
  cat <<'TEXT'
usage: install.sh [--client PROGRAM] NODE PREFIX
       install.sh --check

Installs node type NODE into the new folder PREFIX (pixi: the environment is
PREFIX/.pixi/envs/default). Every file is checked against SHA256SUMS first;
--check does nothing else.

Example:
  ./install.sh gpu /shared/envs/vllm
TEXT
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
client=
check=
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --check) check=1; shift ;;
    --client)
      [ $# -ge 2 ] || fail 2 "--client needs a program." "See $0 --help."
      client=$2; shift 2 ;;
    -*) fail 2 "Unknown option $1." "See $0 --help." ;;
    *) break ;;
  esac
done

cd -- "$here"
if [ -z "$check" ]; then
  [ $# -eq 2 ] || fail 2 "A node type and a prefix are needed." "See $0 --help."
  [ -f "locks/$1.txt" ] ||
    fail 2 "There is no node type $1 here." "Known: $(cd locks && printf '%s ' ./*.txt | sed 's|\./||g; s|\.txt||g')"
fi

wrong=$(sha256sum --check --quiet SHA256SUMS 2>/dev/null) ||
  fail 7 "A file is damaged or missing: $(printf '%s' "${wrong:-SHA256SUMS}" | head -n 1)." \
    "Unpack the bundle again; an incremental one belongs over the one before."
if [ -n "$check" ]; then
  echo "all files are whole"
  exit 0
fi

node=$1
prefix=$2
case $prefix in /*) ;; *) prefix=${OLDPWD:-$PWD}/$prefix ;; esac
if [ -e "$prefix" ] && [ -n "$(ls -A -- "$prefix")" ]; then
  fail 2 "$prefix is there already." "Name a folder that is not."
fi

if [ -z "$client" ]; then
  for one in "${MAMBA_EXE:-}" micromamba mamba "${CONDA_EXE:-}" conda pixi; do
    if [ -n "$one" ] && command -v "$one" >/dev/null 2>&1; then client=$one; break; fi
  done
fi
command -v "${client:-no-client}" >/dev/null 2>&1 ||
  fail 5 "None of micromamba, mamba, conda and pixi is here." "Put one on PATH, or name it with --client."

platform=$(sed -n 's/^# platform: //p' "locks/$node.txt")
# Addresses: what an address does not take as it is gets its number.
address=file://$(printf '%s' "$here" | sed 's/%/%25/g; s/ /%20/g; s/#/%23/g; s/?/%3F/g')
replace="s|https://vllm-conda-bundle.invalid|$(printf '%s' "$address" | sed 's/[&|\\]/\\&/g')|"

work=$(mktemp -d) || fail 8 "No temporary folder can be made." "Set TMPDIR."
trap 'rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
case $(basename -- "$client") in
  pixi*)
    mkdir -p -- "$prefix"
    sed "$replace" "locks/$node.lock" >"$prefix/pixi.lock"
    printf '[workspace]\nname = "%s"\nchannels = ["%s/channel"]\nplatforms = ["%s"]\n' \
      "$node" "$address" "$platform" >"$prefix/pixi.toml"
    "$client" install --frozen --manifest-path "$prefix/pixi.toml"
    ;;
  *)
    sed "$replace" "locks/$node.txt" >"$work/$node.txt"
    CONDA_SUBDIR=$platform "$client" create --yes --offline --prefix "$prefix" --file "$work/$node.txt"
    ;;
esac || fail 1 "$client could not install $node." "Its own message stands above."
echo "installed $node into $prefix"
