package admin

// route is one route of the API.
type route struct {
	pattern string
	do      func(*call) (answer, error)

	open       bool // for everybody, signed in or not
	queries    bool // takes a query
	version    need // what it does with If-Match
	idempotent bool // takes Idempotency-Key
}

// routes lists all routes. A GET ignores If-Match. Any other request with a header that
// would do nothing is refused, because its sender relies on it.
var routes = []route{
	{pattern: "GET /v1/openapi.yaml", do: openapi, open: true},
	{pattern: "GET /v1/rules", do: (*call).rules, version: ignored},

	{pattern: "GET /v1/keys", do: (*call).list, queries: true, version: ignored},
	{pattern: "POST /v1/keys", do: (*call).issue, idempotent: true},
	{pattern: "GET /v1/keys/{id}", do: (*call).get, version: ignored},
	{pattern: "PATCH /v1/keys/{id}", do: (*call).update, version: required},
	{pattern: "POST /v1/keys/{id}/suspend", do: (*call).suspend},
	{pattern: "POST /v1/keys/{id}/resume", do: (*call).resume, version: optional},
	{pattern: "POST /v1/keys/{id}/revoke", do: (*call).revoke},
	{pattern: "POST /v1/keys/{id}/rotate", do: (*call).rotate, version: required},
	{pattern: "DELETE /v1/keys/{id}/rotation", do: (*call).cancelRotation},
	{pattern: "POST /v1/keys/{id}/credentials/{credential}/retire", do: (*call).retire},
	{pattern: "POST /v1/keys/{id}/reveal", do: (*call).reveal},
	{pattern: "POST /v1/provision", do: (*call).provision},

	{pattern: "POST /v1/keys/revoke", do: (*call).revokeMany},
	{pattern: "POST /v1/keys/revoke-all", do: (*call).revokeAll},

	{pattern: "GET /v1/events", do: (*call).events, queries: true, version: ignored},
	{pattern: "GET /v1/keys/{id}/events", do: (*call).events, queries: true, version: ignored},
	{pattern: "POST /v1/keys/{id}/chain", do: (*call).chain},

	{pattern: "GET /v1/factors", do: (*call).factors, version: ignored},
	{pattern: "POST /v1/factors/{factor}/enroll", do: (*call).enroll},
	{pattern: "POST /v1/factors/{factor}/confirm", do: (*call).confirmEnrollment},
	{pattern: "POST /v1/factors/{factor}/disable", do: (*call).disable},
	{pattern: "POST /v1/actors/{actor}/lift-lock", do: (*call).liftLock},
	{pattern: "POST /v1/actors/{actor}/allow-enrollment", do: (*call).allowEnrollment},
	{pattern: "POST /v1/actors/{actor}/disable", do: (*call).disableForAnother},
}
