#!/usr/bin/env bash
# Shows skpr on this machine: starts it on a copy of examples/site, makes some traffic, and prints each command before
# its real output. Ends what it started, whatever happens; with KEEP=1 it leaves everything running and says where.
#
#   SKPR_BIN_DIR  where the built programs are (default: where cargo puts them)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${SKPR_BIN_DIR:-${CARGO_TARGET_DIR:-$root/target}/debug}
bin=$(cd "$bin" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/skpr-demo.XXXXXX")
skpr_pid=
traffic_pid=
done_well=

say() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }
fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}

end() {
  local process=$1
  [ -n "$process" ] || return 0
  kill -TERM "$process" 2>/dev/null || return 0
  wait "$process" 2>/dev/null || true
}

clean_up() {
  trap - EXIT INT TERM HUP
  end "$traffic_pid"
  if [ -n "$done_well" ] && [ "${KEEP:-}" = 1 ]; then
    return
  fi
  end "$skpr_pid"
  if [ -z "$done_well" ] && [ -s "$work/aggregator.log" ]; then
    printf '\ndemo: the last lines of the aggregator:\n' >&2
    tail -n 20 "$work/aggregator.log" >&2
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for program in skpr skpr-aggregator; do
  [ -x "$bin/$program" ] || fail "no $program in $bin: build first (make build)"
done
for program in python3 git; do
  command -v "$program" >/dev/null && continue
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then fail "the example site needs $program: install it first"; fi
  say "Installing $program for the example site"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$program" >/dev/null
done

# Ports in a row on which nothing answers.
free_ports() {
  local count=$1 try port first
  for try in $(seq 50); do
    first=$((20000 + (RANDOM + try) % 12000))
    for port in $(seq "$first" $((first + count - 1))); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
    done
    echo "$first"
    return
  done
  return 1
}
first_port=$(free_ports 3) || fail "no free ports found"
listen_port=$first_port dev_port=$((first_port + 1)) prod_port=$((first_port + 2))

# A project as a developer has it: the site in git, with a tag for each version. The last one is broken.
site=$work/commit-weather
cp -R "$root/examples/site" "$site"
sed -i -e "s/port: 8080/port: $dev_port/" -e "s/port: 8090/port: $prod_port/" "$site/.skpr.yml"
in_git() { git -C "$site" -c user.name=demo -c user.email=demo@example.com -c commit.gpgsign=false -c tag.gpgsign=false "$@"; }
version() {
  in_git commit -qam "$2"
  in_git tag "$1"
}
in_git init -q
in_git add -A
version v1.4.0 "Forecast the weather"
sed -i 's/sunny, no conflicts/sunny, with a chance of merges/' "$site/serve"
version v1.5.0 "See merges coming"
sed -i 's/^def main():/def main():\n    raise SystemExit("the barometer is broken")/' "$site/serve"
version v1.6.0 "Calibrate the barometer"
in_git checkout -q v1.4.0

say "Starting skpr on a copy of examples/site: one instance of dev, two of prod"
printf '$ skpr-aggregator standalone --data DIR --config commit-weather/.skpr.yml --listen 127.0.0.1:%s\n' "$listen_port"
"$bin/skpr-aggregator" standalone --data "$work/data" --config "$site/.skpr.yml" --listen "127.0.0.1:$listen_port" \
  >"$work/ready" 2>"$work/aggregator.log" &
skpr_pid=$!

# The answer's status on stdout; neither curl nor wget is needed.
get() {
  local port=$1 path=$2 status=
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\nUser-Agent: demo\r\n\r\n' "$path" >&3
  read -r _ status _ <&3 || true
  cat <&3 >/dev/null || true
  exec 3<&- 3>&-
  echo "$status"
}

ready() { [ "$(grep -cE '^(address|ca|token): ' "$work/ready" 2>/dev/null)" = 3 ]; }
answers() { [ "$(get "$1" /healthz 2>/dev/null)" = 200 ]; }
for try in $(seq 300); do
  kill -0 "$skpr_pid" 2>/dev/null || fail "the aggregator has ended"
  if ready && answers "$dev_port" && answers "$prod_port"; then break; fi
  [ "$try" -lt 300 ] || fail "not ready after 60 seconds"
  sleep 0.2
done
grep -E '^(address|ca|token): ' "$work/ready"
value() { sed -n "s/^$1: //p" "$work/ready"; }

traffic() {
  local port path
  for port in "$dev_port" "$prod_port" "$prod_port"; do
    for path in / /forecast/main /forecast/release /forecast/moon; do get "$port" "$path" >/dev/null; done
  done
  get "$prod_port" /storm >/dev/null
}

export PATH="$bin:$PATH" SKPR_CONFIG_DIR="$work/config"
cd "$site"
say "What a user sets; with a cluster, skpr login does it instead"
SKPR_CLUSTER=$(value address) SKPR_CA=$(value ca) SKPR_TOKEN=$(cat "$(value token)")
export SKPR_CLUSTER SKPR_CA SKPR_TOKEN
unset SKPR_PROJECT
printf '$ export SKPR_CLUSTER=%s SKPR_CA=%s\n' "$SKPR_CLUSTER" "$SKPR_CA"
printf "\$ export SKPR_TOKEN=\"\$(cat %s)\"\n" "$(value token)"

# Runs a command as a user would and insists that it works and shows something; with SAYS=N, that it ends with N.
show() {
  printf '\n$ '
  printf '%q ' "$@" | sed 's/ $/\n/'
  local status=0
  "$@" | tee "$work/shown" || status=$?
  [ "$status" = "${SAYS:-0}" ] || fail "\`$*\` ended with exit code $status instead of ${SAYS:-0}"
  [ -s "$work/shown" ] || [ -n "${SAYS:-}" ] || fail "\`$*\` showed nothing"
}

# Records are shown once they are on disk: waits until a search finds one.
found() {
  local try
  for try in $(seq 100); do
    if [ -n "$(skpr logs -q "$@" 2>/dev/null)" ]; then return; fi
    sleep 0.1
  done
  fail "\`skpr logs $*\` finds nothing"
}

show skpr whoami
# The last probe may be a moment away from the answer that this script got.
for try in $(seq 100); do
  [ "$(skpr list -o json | tr , '\n' | grep -cE '"ready": ?0')" != 0 ] || break
  sleep 0.1
done
show skpr list

say "Some traffic, and its logs as they are written (Ctrl-C ends it; here: 4 seconds)"
since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
(
  sleep 1
  for _ in 1 2 3; do
    traffic
    sleep 0.5
  done
) &
traffic_pid=$!
printf '\n$ skpr logs prod -f\n'
status=0
timeout --foreground --signal=INT 4 skpr logs prod -f | tee "$work/shown" || status=$?
case $status in 0 | 124 | 130) ;; *) fail "\`skpr logs prod -f\` failed with exit code $status" ;; esac
[ -s "$work/shown" ] || fail "\`skpr logs prod -f\` showed nothing"
wait "$traffic_pid" || true
traffic_pid=
found prod --since "$since" --grep storm
sleep 1
until=$(date -u +%Y-%m-%dT%H:%M:%SZ)

say "A window of the past, all instances merged by time"
show skpr logs dev --since "$since" --until "$until"

say "A search; filters act on the server"
show skpr logs prod --since "$since" --stream stderr --grep 'KeyError|storm' -n 4

say "For scripts: one object per line"
show skpr logs prod --since "$since" --grep GET -o json -n 3

say "A program in an instance: its variables, its directory, and its exit code"
SAYS=3 show skpr exec dev -- sh -c 'echo "$SKPR_INSTANCE runs $SKPR_VERSION in $(basename "$PWD")"; exit 3'

# What the site says on a path, whoever of its instances.
page() {
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
  sed '1,/^\r$/d' <&3
  exec 3<&- 3>&-
}
runs() {
  printf '\n$ curl http://127.0.0.1:%s/version\n' "$dev_port"
  page "$dev_port" /version | tee "$work/shown"
  [ "$(cat "$work/shown")" = "$1" ] || fail "dev does not run $1"
}

# Old instances leave once their connections have ended, a moment after the new ones serve.
settled() {
  local try
  for try in $(seq 100); do
    if skpr list 2>/dev/null | grep -qE "/$1 .* $2/$2 .* ok\$"; then return; fi
    sleep 0.1
  done
  fail "$1 does not have $2 instances"
}

say "A deploy, while somebody asks for pages all the time"
(
  while [ ! -e "$work/asked-enough" ]; do
    answers "$dev_port" || echo refused >>"$work/refused"
    sleep 0.05
  done
) &
traffic_pid=$!
show skpr deploy dev v1.5.0
runs v1.5.0
settled dev 1
show skpr list
show skpr releases dev

say "A version that is broken: the deploy fails (exit code 6), and nobody notices"
SAYS=6 show skpr deploy dev v1.6.0
runs v1.5.0

say "Back to the release before, and more instances"
show skpr rollback dev -y
runs v1.4.0
show skpr scale dev --min 2 --max 2
settled dev 2
show skpr list
touch "$work/asked-enough"
wait "$traffic_pid" || true
traffic_pid=
[ ! -e "$work/refused" ] || fail "$(wc -l <"$work/refused") requests were refused during the changes"
printf '\nNo request was refused meanwhile.\n'

say "A task of dev, run now; by itself it runs every five minutes"
show skpr cron list dev
show skpr cron run dev forecast --wait
show skpr cron history dev

say "What prod uses, now and over the last minute"
# Rates take two samples, five seconds apart.
for try in $(seq 100); do
  if skpr metrics prod -o json 2>/dev/null | grep -q '"cpuMillicores": [0-9]'; then break; fi
  [ "$try" -lt 100 ] || fail "prod is not sampled"
  sleep 0.2
done
show skpr metrics prod --since 1m --per-instance

say "Files of dev to this machine and back: the second time only what has changed"
show skpr rsync -a --stats dev: "$work/copy/"
echo "pushed by the demo" >"$work/copy/pushed.txt"
show skpr rsync -ai "$work/copy/" dev:
show skpr rsync -a --stats "$work/copy/" dev:

say "What happened to dev"
show skpr events dev --since "$since"

done_well=1
say "That was skpr."
if [ "${KEEP:-}" = 1 ]; then
  cat <<END
It goes on running (process $skpr_pid; data in $work). To go on:
  cd $site
  export PATH=$bin:\$PATH SKPR_CLUSTER=$SKPR_CLUSTER SKPR_CA=$SKPR_CA SKPR_TOKEN=\$(cat $(value token))
  skpr logs prod -f          # and open http://127.0.0.1:$prod_port/ or /storm in a browser
To end it: kill $skpr_pid && rm -rf $work
END
else
  cat <<END
All of it has been ended and removed. To go on:
  KEEP=1 make demo           leaves it running and says how to reach it
  skpr --help                every command and flag
  examples/site/.skpr.yml    what describes a project; README.md says how to install skpr on Kubernetes
END
fi
