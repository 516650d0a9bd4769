package admin

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
)

// query reads the query of a URL. As in a body, an unknown name is refused, and so are a
// name twice and an empty value: if a misspelt filter were ignored, the answer would have
// all keys.
type query struct {
	values url.Values
	known  []string
	wrong  []error
}

func (c *call) query() *query {
	q := &query{}
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		q.refuse("query", apikey.InvalidMalformed, "")
	}
	q.values = values
	return q
}

func (q *query) refuse(name string, code apikey.InvalidCode, value string) {
	q.wrong = append(q.wrong, &apikey.InvalidError{Field: name, Code: code, Value: value})
}

// get returns the value of a name, if it is there.
func (q *query) get(name string) (string, bool) {
	q.known = append(q.known, name)
	values := q.values[name]
	switch {
	case len(values) == 0:
		return "", false
	case len(values) > 1:
		q.refuse(name, apikey.InvalidSeveral, "")
	case values[0] == "":
		q.refuse(name, apikey.InvalidEmpty, "")
	default:
		return values[0], true
	}
	return "", false
}

func (q *query) text(name string) string {
	text, _ := q.get(name)
	return text
}

// texts reads a list, of which no more than the first hundred are parted: a longer one is
// refused in any case.
func (q *query) texts(name string) []string {
	text, ok := q.get(name)
	if !ok {
		return nil
	}
	return strings.SplitN(text, ",", 100)
}

// read parses the value of a name. A value that parses to zero is refused, because it
// would select as if it were absent.
func read[T comparable](q *query, name string, parse func(string) (T, error)) (v T) {
	text, ok := q.get(name)
	if !ok {
		return v
	}
	v, err := parse(text)
	var zero T
	if own, ok := errors.AsType[*apikey.InvalidError](err); ok {
		named := *own
		named.Field = name
		q.wrong = append(q.wrong, &named)
	} else if err != nil || v == zero {
		q.refuse(name, apikey.InvalidMalformed, text)
	}
	return v
}

// textOf reads a value of a type that reads its own text.
func textOf[T comparable, P interface {
	*T
	UnmarshalText([]byte) error
}](q *query, name string) T {
	return read(q, name, func(text string) (v T, err error) {
		err = P(&v).UnmarshalText([]byte(text))
		return v, err
	})
}

func (q *query) time(name string) time.Time {
	return read(q, name, func(text string) (time.Time, error) { return time.Parse(time.RFC3339, text) })
}

func (q *query) number(name string) int { return read(q, name, strconv.Atoi) }

func (q *query) seconds(name string) time.Duration {
	return read(q, name, func(text string) (time.Duration, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		return seconds(n), err
	})
}

// is reads a filter that is on if it is there: its only value is "true".
func (q *query) is(name string) bool {
	return read(q, name, func(text string) (on bool, err error) {
		if on = text == "true"; !on {
			err = &apikey.InvalidError{Code: apikey.InvalidUnknown, Value: text, Known: []string{"true"}}
		}
		return on, err
	})
}

// err returns all that is wrong, with the names that no filter has. It is called last.
func (q *query) err() error {
	for name := range q.values {
		if !slices.Contains(q.known, name) {
			q.wrong = append(q.wrong, &apikey.InvalidError{Field: name, Code: apikey.InvalidUnknown, Value: name, Known: near(name, q.known)})
		}
	}
	slices.SortStableFunc(q.wrong, func(a, b error) int {
		return strings.Compare(a.(*apikey.InvalidError).Field, b.(*apikey.InvalidError).Field)
	})
	return errors.Join(q.wrong...)
}

// near lists the known names that the misspelt one may mean: those with its first letters.
func near(name string, known []string) (found []string) {
	for _, k := range known {
		if len(name) >= 3 && strings.HasPrefix(k, strings.ToLower(name[:3])) {
			found = append(found, k)
		}
	}
	if len(found) == 0 {
		return known
	}
	return found
}
