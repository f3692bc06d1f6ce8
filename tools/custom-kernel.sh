#!/usr/bin/env bash
# Build a kernel for `mmlitmus conform --kernel PATH`, with lockdep, DEBUG_VM and the test drivers of HMM and GUP.
#
#     tools/custom-kernel.sh [--configure-only] SOURCE OUT [FRAGMENT...]
#
# SOURCE: a kernel tree, a packed one, or Debian's linux-source package (`apt-get download linux-source-6.12` gets it).
# OUT: a folder that is not there yet or that an earlier run wrote. FRAGMENT: more files of CONFIG_ lines, which win.
# Wants gcc, make, flex, bison, bc, libelf-dev, xz-utils. The tree is not written to, if it is clean (make mrproper).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage="usage: tools/custom-kernel.sh [--configure-only] SOURCE OUT [FRAGMENT...]"
die() {
    echo "custom-kernel: $*" >&2
    exit 2
}

only=
if [ "${1:-}" = --configure-only ]; then
    only=yes
    shift
fi
[ $# -ge 2 ] || die "$usage"
source=$1 out=$2
shift 2
[ -e "$source" ] || die "$source is not there"
for name in gcc make flex bison bc; do
    command -v "$name" >/dev/null || die "$name is not here: apt-get install gcc make flex bison bc libelf-dev"
done
if [ -e "$out" ] && [ ! -e "$out/.custom-kernel" ]; then
    die "$out is there already, and this script did not make it"
fi
mkdir -p "$out/build"
out=$(cd "$out" && pwd)
touch "$out/.custom-kernel"

tree=$source
if [ -f "$source" ]; then
    tree=$out/source
    if [ ! -f "$tree/Makefile" ]; then
        echo "unpacking $source"
        mkdir -p "$tree" "$out/package"
        packed=$source
        if [ "${source%.deb}" != "$source" ]; then
            dpkg-deb --extract "$source" "$out/package"
            packed=$(echo "$out"/package/usr/src/linux-source-*.tar.xz)
        fi
        tar -x --strip-components=1 -C "$tree" -f "$packed"
        rm -rf "$out/package"
    fi
fi
[ -f "$tree/scripts/kconfig/merge_config.sh" ] || die "$source is neither a kernel tree nor a linux-source package"
tree=$(cd "$tree" && pwd)

run() { make -s -C "$tree" O="$out/build" ARCH=x86_64 "$@"; }
run tinyconfig
(cd "$out/build" && "$tree/scripts/kconfig/merge_config.sh" -m -O . .config "$here/custom-kernel.config" "$@") >"$out/merge.log"
run olddefconfig

# what this release does not have, or has for other reasons switched off, is said and is no error
cat "$here/custom-kernel.config" "$@" | grep -E '^CONFIG_' | while read -r line; do
    grep -qxF "$line" "$out/build/.config" || echo "not in this kernel: $line"
done
echo "configured $(make -s -C "$tree" kernelversion) in $out/build"
[ -z "$only" ] || exit 0

run -j"$(nproc)" bzImage modules
run modules_install INSTALL_MOD_PATH="$out/modules" DEPMOD=true
cat <<EOF
built; now:
    mmlitmus conform --kernel $out/build/arch/x86/boot/bzImage --modules $out/modules --model KERNEL
EOF
