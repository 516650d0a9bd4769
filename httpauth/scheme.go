package httpauth

// Bearer returns an Extractor for "Authorization: Bearer <key>" (RFC 6750 §2.1).
func Bearer() Extractor { return bearer{} }

type bearer struct{}

func (bearer) Header() string { return "Authorization" }

func (bearer) Scheme() string { return "Bearer" }

func (bearer) Extract(value string) (string, error) {
	token, mine := afterScheme(value, "Bearer")
	if mine && token == "" {
		return "", malformed("nothing follows Bearer")
	}
	return token, nil
}
