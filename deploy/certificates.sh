#!/bin/sh
# Keys and certificates of a federation: TLS for the SuperLink, and a key pair per SuperNode.
#
#   sh deploy/certificates.sh superlink DIR HOST...   an authority and the SuperLink's certificate
#   sh deploy/certificates.sh node DIR NAME           the key pair of one SuperNode
#
# HOST is every name and IP address by which SuperNodes reach the SuperLink. Nothing is overwritten:
# what is there already stays, so the same command can be given again. To renew the SuperLink's
# certificate, delete server.pem and run it again: nodes that trust ca.crt need no change.
#
#   ca.key      stays where it is made, better still offline: who has it can pose as the SuperLink
#   ca.crt      to every SuperNode, and to everybody who starts runs
#   server.pem, server.key   to the SuperLink
#   NAME        to that one SuperNode, which had best make it itself: then it never travels
#   NAME.pub    to whoever registers the node: flwr supernode register NAME.pub CONNECTION
set -eu
umask 077  # private keys are for their owner only, from their first byte on

CA_DAYS=3650
SERVER_DAYS=397

say() { printf '%s\n' "$*"; }

fail() {
    say "$*" >&2
    exit 2
}

usage() { fail "usage: certificates.sh superlink DIR HOST... | certificates.sh node DIR NAME"; }

# The authority that vouches for the SuperLink.
make_authority() {
    if [ -e ca.crt ]; then say "ca.crt is there already"; return; fi
    [ ! -e ca.key ] || fail "ca.key is there, but ca.crt is not: put ca.crt back, or delete ca.key"
    openssl req -new -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout ca.key -out ca.crt.new -days "$CA_DAYS" -sha256 -subj "/CN=fedmeta" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
    mv ca.crt.new ca.crt
    say "made ca.key and ca.crt"
}

# DNS:name or IP:address, whichever the word is.
alternative() {
    case $1 in
        *:*) printf 'IP:%s' "$1" ;;
        *[!0-9.]*) printf 'DNS:%s' "$1" ;;
        *) printf 'IP:%s' "$1" ;;
    esac
}

# The SuperLink's certificate, for all hosts that were given.
make_server() {
    if [ -e server.pem ]; then say "server.pem is there already"; return; fi
    [ -e ca.key ] || fail "ca.key is needed here to make server.pem"
    names="DNS:localhost,IP:127.0.0.1"  # as which the SuperLink's own processes reach it
    for host in "$@"; do names="$names,$(alternative "$host")"; done
    if [ ! -e server.key ]; then
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key 2>/dev/null
    fi
    openssl req -new -key server.key -subj "/CN=$1" -out server.csr
    {
        say "basicConstraints=critical,CA:FALSE"
        say "keyUsage=critical,digitalSignature"
        say "extendedKeyUsage=serverAuth"
        say "subjectKeyIdentifier=hash"
        say "authorityKeyIdentifier=keyid"
        say "subjectAltName=$names"
    } > server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 \
        -days "$SERVER_DAYS" -extfile server.ext -out server.pem.new 2>/dev/null
    mv server.pem.new server.pem
    rm -f server.csr server.ext ca.srl
    say "made server.key and server.pem for $names"
}

make_node() {
    if [ -e "$1" ]; then say "$1 is there already"; return; fi
    ssh-keygen -q -t ecdsa -b 384 -N "" -C "" -f "$1"
    chmod 644 "$1.pub"
    say "made $1 and $1.pub"
}

[ $# -ge 3 ] || usage
what=$1 folder=$2
shift 2
mkdir -p "$folder"
cd "$folder"
case $what in
    superlink)
        make_authority
        make_server "$@"
        chmod 644 ca.crt server.pem
        ;;
    node)
        case $1 in */* | -* | ca.* | server.*) usage ;; esac
        make_node "$1"
        ;;
    *) usage ;;
esac
