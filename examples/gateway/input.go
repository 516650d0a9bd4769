package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBody is many times larger than any request that this API needs.
const maxBody = 16 << 10

// read decodes one JSON object, and refuses unknown fields: otherwise a misspelt "amuont"
// could become a refund of the whole payment.
func read(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the object")
		}
	}
	var large *http.MaxBytesError
	var field *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return problem{Status: 413, Code: "too_large", Detail: fmt.Sprintf("A request has at most %d bytes.", maxBody)}
	case errors.As(err, &field) && field.Field != "": // err's text names a Go type, which is not for the client
		return problem{Status: 400, Code: "invalid_json", Detail: fmt.Sprintf("The field %q has a value of another type; amounts are integers.", field.Field)}
	case errors.As(err, &field), errors.Is(err, io.EOF):
		return problem{Status: 400, Code: "invalid_json", Detail: "The body is not a JSON object."}
	}
	return problem{Status: 400, Code: "invalid_json", Detail: strings.TrimPrefix(err.Error(), "json: ")}
}

func validAmount(amount int64) error {
	if amount < 1 || amount > maxAmount {
		return problem{Status: 422, Code: "invalid_amount", Detail: fmt.Sprintf("amount is in minor units (cents), from 1 to %d.", int64(maxAmount))}
	}
	return nil
}

func validCurrency(code string) error {
	switch code {
	case "BDT", "EUR", "IDR", "USD":
		return nil
	}
	return problem{Status: 422, Code: "invalid_currency", Detail: "currency is BDT, EUR, IDR or USD."}
}

// luhn reports whether s may be a card number (ISO/IEC 7812-1).
func luhn(s string) bool {
	if len(s) < 12 || len(s) > 19 {
		return false
	}
	sum := 0
	for i := range len(s) {
		digit := int(s[len(s)-1-i]) - '0'
		if digit < 0 || digit > 9 {
			return false
		}
		if i%2 == 1 {
			digit = digit*2/10 + digit*2%10
		}
		sum += digit
	}
	return sum%10 == 0
}
