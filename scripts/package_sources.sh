# Sourced by setup.sh and lock.sh: hands pip's own configuration (its files and environment) on to uv under uv's names.
# pip prints nothing, and fails, for a key that is not set.
python=${python:-python3}
from_pip() {
    "$python" -m pip config get "global.$1" 2>/dev/null || "$python" -m pip config get ":env:.$1" 2>/dev/null || true
}
index=$(from_pip index-url)
extra=$(from_pip extra-index-url)
links=$(from_pip find-links)
certificate=$(from_pip cert)
# uv wants a blank between indexes and a comma between wheel folders; pip separates both by blanks or new lines.
[ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
[ -z "$extra" ] || export UV_INDEX=${UV_INDEX:-$(echo $extra)}
[ -z "$links" ] || export UV_FIND_LINKS=${UV_FIND_LINKS:-$(echo $links | tr ' ' ',')}
[ -z "$certificate" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificate}
# An extra index may hold an older release of a package than the main one: take the wanted version wherever it is.
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
