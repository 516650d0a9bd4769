package httpauth

// Header reads a header that holds the key and nothing else: "X-API-Key", or
// "RT-UDDOKTAPAY-API-KEY". [New] panics on a name that no header can have.
func Header(name string) Extractor { return header(name) }

type header string

func (h header) Header() string { return string(h) }

func (header) Extract(value string) (string, error) { return value, nil }
