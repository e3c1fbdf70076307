#!/bin/sh
# A worker of shell functions, see runner-worker(7): tasks.sh of its working folder defines them.
#     worker: Command(["/usr/local/lib/worker.sh"]), tasks: [(call: "send_mail")]
. ./tasks.sh
printf 'HELLO 1 sh\nREADY\n' >&4
while read -r word id name <&3; do
    case $word in
        RUN) if ( "$name" ) 3<&- 4>&-; then echo "DONE $id" >&4; else
            echo "FAIL $id {\"type\": \"Status\", \"message\": \"$name ended with status $?\"}" >&4; fi ;;
        PING) echo PONG >&4 ;;
        STOP) echo BYE >&4; exit ;;
        *) echo "UNSUPPORTED $word" >&4 ;;
    esac
done
