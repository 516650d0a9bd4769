package httpauth

// Header returns an Extractor for a header whose whole value is the key, such as
// "X-API-Key" or "RT-UDDOKTAPAY-API-KEY". [New] panics if no header can have this name.
func Header(name string) Extractor { return header(name) }

type header string

func (h header) Header() string { return string(h) }

func (header) Extract(value string) (string, error) { return value, nil }
