#!/usr/bin/env bash
set -euo pipefail
# Starts everything.
SITE=${SITE:-shop}
BASE="/srv/${SITE}"
export DJANGO_SETTINGS_MODULE=shop.settings
cd $BASE/main && source env/bin/activate
nohup ./manage.py import_feed --all > $BASE/log/import.log 2>&1 &
sudo -u www-data nice -n 10 /usr/bin/php $BASE/cron.php >> /var/log/cron.log 2>&1 &
sudo -u shop -H bash -c 'cd /srv/shop && exec ./worker.sh' &
setsid /usr/local/bin/watcher --dir "$BASE/in coming" < /dev/null > /dev/null 2>&1 &
while true; do
    ./manage.py send_mail
    ./manage.py retry_deferred
    sleep 300
done &
(cd /srv/other; while :; do python poll.py; sleep 5; done) &
while sleep 60; do curl -fsS https://example.org/ping | grep ok; done &
runuser -u postgres -- pg_dump shop > /backup/shop.sql && gzip /backup/shop.sql &
ionice -c3 nice -n 19 chrt -b 0 timeout 3600 ./reindex.sh &
env FOO=bar BAZ="a b" ./with_env.sh &
start_worker() {
    nohup ./worker "$1" >> log/$1.log 2>&1 &
}
start_worker mail
start_worker sms
cat > /tmp/x.conf <<EOF
key = value
su nobody -c "this is text, not a command &"
EOF
for i in 1 2 3; do ./shard $i & done
if [ -f /etc/go ]; then ./maybe & fi
echo started
wait
