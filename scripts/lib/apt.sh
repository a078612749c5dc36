# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Packages and sources from the archives this machine is already configured
# for; other suites are derived from those. No host name is written down here.

# apt_uris KIND: URIs configured for this release; KIND is base or security.
apt_uris() {
    local code want
    code=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    case $1 in base) want=$code ;; security) want=$code-security ;; esac
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v w="$want" '$1 == w && !seen[$2]++ {print $2}'
}

# apt_sources SUITE [SUITE…]: a sources.list for these suites, on stdout.
# "-security" suites come from the security archive, all others from the base.
apt_sources() {
    local suite kind uri found
    local opt=' '
    # The release keys of all living suites are in this one file.
    [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        opt=' [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
    for suite in "$@"; do
        case $suite in *-security) kind=security ;; *) kind=base ;; esac
        found=
        while read -r uri; do
            printf 'deb%s%s %s main\ndeb-src%s%s %s main\n' "$opt" "$uri" "$suite" "$opt" "$uri" "$suite"
            found=1
        done < <(apt_uris $kind)
        [ -n "$found" ] || [ $kind = security ] ||
            die "apt has no Debian archive configured to derive '$suite' from" \
                "configure apt for a Debian release (see: apt-get indextargets)"
    done
}

# apt_private NAME SUITE…: prepare a private apt directory for these suites and
# fetch its index. Sets APT_OPTS. An index younger than a day is reused.
apt_private() {
    local dir=$HVCKPT_CACHE_DIR/apt/$1 start; shift
    mkdir -p "$dir/lists/partial" "$dir/archives/partial"
    apt_sources "$@" >"$dir/sources.new"
    APT_OPTS=(-oDir::Etc::SourceList="$dir/sources.list" -oDir::Etc::SourceParts=/dev/null
        -oDir::Etc::Preferences=/dev/null -oDir::Etc::PreferencesParts=/dev/null
        -oDir::State::Lists="$dir/lists" -oDir::Cache="$dir" -oDir::Cache::archives="$dir/archives"
        -oAcquire::Retries=3 -oAcquire::Languages=none -oAPT::Get::AllowUnauthenticated=false
        -oAPT::Sandbox::User=root -oAPT::Install-Recommends=false -oDpkg::Use-Pty=0)
    if cmp -s "$dir/sources.new" "$dir/sources.list" &&
        [ -n "$(find "$dir/.ok" -mmin -1440 2>/dev/null)" ] && [ -z "${APT_REFRESH:-}" ]; then
        return 0
    fi
    rm -f "$dir/.ok"
    mv "$dir/sources.new" "$dir/sources.list"
    start=$(now_ms)
    log "package index of $* ..."
    if ! apt-get "${APT_OPTS[@]}" update >"$dir/update.log" 2>&1 ||
        grep -qE '^(E|Err|W: Failed)' "$dir/update.log"; then
        tail -n 5 "$dir/update.log" >&2
        die "cannot fetch the package index of $* (log: $dir/update.log)" \
            "check the network and that 'apt-get update' works, then run the same command again"
    fi
    : >"$dir/.ok"
    log "package index of $*: done in $(secs_since "$start") s"
}

# host_packages PACKAGE…: install those which are missing, with apt.
host_packages() {
    local p missing=() tmp
    for p in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "missing packages: ${missing[*]}, and there is no apt-get" "install them by hand"
    take_lock apt
    make_tmpdir tmp
    if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || [ -z "$(find /var/lib/apt/lists -name '*Packages*' -mmin -1440 2>/dev/null | head -n 1)" ]; then
        RUN_HINT="check the network and apt's sources" run_logged "apt-get update" "$tmp/apt-update.log" \
            as_root apt-get -o Acquire::Retries=3 update
    fi
    RUN_HINT="check the network, or install by hand: apt-get install ${missing[*]}" \
        run_logged "installing ${missing[*]}" "$tmp/apt-install.log" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
        install -y --no-install-recommends "${missing[@]}"
    release_lock apt
}
