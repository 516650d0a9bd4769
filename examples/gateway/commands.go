package main

// commands are those of a program that has a key.
const commands = `#
# Paste the four keys above into a shell, then
# a payment, which can be looked up and refunded in part:
PAYMENT=$(curl -sS "URL/v1/checkouts" -H "Authorization: Bearer $LIVE_SECRET_KEY" -d '{"amount":1250,"currency":"EUR"}' | sed 's/.*"id":"\([^"]*\)".*/\1/')
curl -sS "URL/v1/payments/$PAYMENT" -H "Authorization: Bearer $LIVE_SECRET_KEY"
curl -sS "URL/v1/refunds" -H "Authorization: Bearer $LIVE_SECRET_KEY" -d '{"payment":"'$PAYMENT'","amount":500}'
curl -sS "URL/v1/balance" -H "Authorization: Bearer $LIVE_SECRET_KEY"
# what the key may not do, and what the sandbox does not see:
curl -sS "URL/v1/payouts" -H "Authorization: Bearer $LIVE_SECRET_KEY" -d '{"amount":100,"currency":"EUR"}'
curl -sS "URL/v1/payments/$PAYMENT" -H "Authorization: Bearer $TEST_SECRET_KEY"
# and what a visitor of the shop may do with the key in the page:
curl -sS "URL/v1/tokens" -H "Authorization: Bearer $TEST_PUBLISHABLE_KEY" -d '{"number":"4242424242424242","exp_month":12,"exp_year":2040}'
#
`

// management are the commands of a person who is signed in: a day of a key.
const management = `# Keys are managed by whoever has this link, which works once: on a page in a browser, or here:
# URLLINK
# Paste these commands in two parts: to show a token again needs a code, which is printed when
# the first part is done.
JAR=$(mktemp)
curl -sS -o /dev/null -w '%{http_code}\n' -c "$JAR" "URLLINK"
manage() { curl -sS -b "$JAR" -H "Origin: URL" -H "Content-Type: application/json" -w ' %{http_code}\n' "$@"; }
KEYS="URL/api/v1/keys"
# a new key, which can be shown again, and its first request:
MADE=$(manage "$KEYS" -H "Idempotency-Key: form-$(date +%s)" -d '{"mode":"live","name":"Shop","abilities":["balance=read"],"recoverable":true}')
printf '%s\n' "$MADE"
KEY="$KEYS/$(printf '%s\n' "$MADE" | sed 's/.*"key":{"id":"\([^"]*\)".*/\1/')"
TOKEN=$(printf '%s\n' "$MADE" | sed 's/.*"token":"\([^"]*\)".*/\1/')
curl -sS "URL/v1/balance" -H "Authorization: Bearer $TOKEN"
# edit it, if nobody else has done so since version 1; suspend it, and resume it:
manage "$KEY" -X PATCH -H 'If-Match: "1"' -d '{"name":"Shop in Dhaka"}'
manage "$KEY/suspend" -X POST
curl -sS "URL/v1/balance" -H "Authorization: Bearer $TOKEN"
manage "$KEY/resume" -X POST
# a new token; the older one works for an hour more:
ETAG=$(manage "$KEY" -o /dev/null -D - | tr -d '\r' | sed -n 's/^[Ee][Tt][Aa][Gg]: //p')
NEXT=$(manage "$KEY/rotate" -H "If-Match: $ETAG" -d '{"overlap_seconds":3600}')
printf '%s\n' "$NEXT"
NEXT=$(printf '%s\n' "$NEXT" | sed 's/.*"token":"\([^"]*\)".*/\1/')
curl -sS "URL/v1/balance" -H "Authorization: Bearer $TOKEN"
curl -sS "URL/v1/balance" -H "Authorization: Bearer $NEXT"
# show the token again, which needs a code; the gateway has no mail server and prints it:
manage "$KEY/reveal" -X POST
ASKED=$(manage "$KEY/reveal" -d '{"approval":{"factor":"email"}}')
printf '%s\n' "$ASKED"
CHALLENGE=$(printf '%s\n' "$ASKED" | sed 's/.*"id":"\([^"]*\)".*/\1/')
#
# Stop here: paste the line CODE=… that the gateway has printed below. Then paste the rest:
manage "$KEY/reveal" -d '{"approval":{"challenge":"'$CHALLENGE'","answer":"'${CODE:?paste the line CODE=… first}'"}}'
# end it for ever, and read who did what:
manage "$KEY/revoke" -d '{"reason":"unused"}'
curl -sS "URL/v1/balance" -H "Authorization: Bearer $NEXT"
manage "$KEY/events"
#
`

const noManagement = `# Keys are managed at an address of this machine only: -addr 127.0.0.1:8080
`
