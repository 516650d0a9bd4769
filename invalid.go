package apikey

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// InvalidError names one field of a request that is wrong. It wraps ErrInvalid and, if
// the field is longer than one of the [Limits] allows, ErrLimit too.
//
// A Manager method checks all fields before it returns: its error has one InvalidError
// for each wrong field. [InvalidFields] lists them.
type InvalidError struct {
	// Field is the name of the request's field in JSON: "expires_at", "networks"; in a
	// request without JSON, that of the field in snake case: "unused_since". For
	// RotateRequest.Overlap it is "overlap_seconds". For an argument that is no request it
	// is its name: "limit", "answer". A field of the [Actor] in the
	// context has the prefix "actor."; the factor of [Manager.Challenge] is
	// "approval.factor", because the request may have a factor too. Empty: the function
	// does not know the field (ParseScope, Catalog.Parse), or the program is not
	// configured for the call.
	Field string
	Code  InvalidCode // what is wrong; stable, for programs
	// Value is the wrong part of the field, as the caller wrote it: an ability, a network,
	// an origin, a name of the metadata, a factor; for InvalidHidden the character, as
	// "U+202E". It has at most 60 bytes of valid UTF-8, and "…" if it was cut. Empty: the
	// whole field is wrong.
	Value string
	// Min and Max are the bounds, inclusive, if the Code has bounds: bytes for
	// InvalidTooLong and InvalidValueTooLong, entries for InvalidTooMany; for
	// InvalidOutOfRange the number itself, or the seconds of a duration.
	Min, Max int
	// Known lists what the caller may have meant: for InvalidUnknown the nearest
	// abilities of the Catalog, or all actions; for InvalidUnusable the factors that
	// approve the action.
	Known []string

	text string // for developers: may name Go fields and settings
}

// InvalidCode says what is wrong with a field. Codes never change their meaning; a
// later version may add some.
type InvalidCode string

const (
	// InvalidRequired: the field is missing.
	InvalidRequired InvalidCode = "required"
	// InvalidUnknown: the value is not one of the possible values.
	InvalidUnknown InvalidCode = "unknown"
	// InvalidMalformed: the value does not have the form that the field needs.
	InvalidMalformed InvalidCode = "malformed"
	// InvalidTooLong: more than Max bytes. In metadata, it is a name that is too long.
	InvalidTooLong InvalidCode = "too_long"
	// InvalidValueTooLong: in metadata, the value under the name Value has more than Max
	// bytes.
	InvalidValueTooLong InvalidCode = "value_too_long"
	// InvalidTooMany: more than Max entries.
	InvalidTooMany InvalidCode = "too_many"
	// InvalidOutOfRange: less than Min or more than Max.
	InvalidOutOfRange InvalidCode = "out_of_range"
	// InvalidText: the text is not valid UTF-8, or has a NUL.
	InvalidText InvalidCode = "not_text"
	// InvalidHidden: the name has a character that is not seen, or that changes how the
	// text beside it is shown.
	InvalidHidden InvalidCode = "hidden_character"
	// InvalidBlank: the name has nothing that is seen, or a name in the metadata is empty.
	InvalidBlank InvalidCode = "blank"
	// InvalidPast: the time has passed.
	InvalidPast InvalidCode = "past"
	// InvalidFuture: the time has not come.
	InvalidFuture InvalidCode = "future"
	// InvalidTooLate: the time, or a time that is computed from the field, is after the
	// year 9999.
	InvalidTooLate InvalidCode = "too_late"
	// InvalidAfterExpiry: the key expires before the rotation is over.
	InvalidAfterExpiry InvalidCode = "after_expiry"
	// InvalidEmpty: the field is set to an empty value, which would lift a restriction or
	// an expiry. An update does that with Clear, which is null in JSON.
	InvalidEmpty InvalidCode = "empty"
	// InvalidNotPublishable: the ability cannot be given to a publishable key.
	InvalidNotPublishable InvalidCode = "not_publishable"
	// InvalidUnavailable: the program is not configured for this.
	InvalidUnavailable InvalidCode = "not_available"
	// InvalidOtherList: the cursor is not of this list.
	InvalidOtherList InvalidCode = "other_list"
	// InvalidContradiction: the field and another one exclude each other.
	InvalidContradiction InvalidCode = "contradiction"
	// InvalidNotAllowed: the field has to be empty here.
	InvalidNotAllowed InvalidCode = "not_allowed"
	// InvalidUnusable: the factor does not approve the action.
	InvalidUnusable InvalidCode = "unusable"
	// InvalidNotNeeded: the action needs no approval.
	InvalidNotNeeded InvalidCode = "not_needed"
	// InvalidSeveral: the text holds more than one token, or the field is there twice.
	InvalidSeveral InvalidCode = "several"
)

// Error says what is wrong with the field, for developers. A merchant is shown
// httpauth.Refused.
func (e *InvalidError) Error() string { return fmt.Sprintf("%v: %s", ErrInvalid, e.says()) }

func (e *InvalidError) says() string {
	if e.text != "" {
		return e.text
	}
	return strings.TrimPrefix(e.Field+" is "+string(e.Code), " is ")
}

// Unwrap is ErrInvalid, and ErrLimit if the field is longer than a limit allows.
func (e *InvalidError) Unwrap() []error {
	switch e.Code {
	case InvalidTooLong, InvalidValueTooLong, InvalidTooMany:
		return []error{ErrInvalid, ErrLimit}
	}
	return []error{ErrInvalid}
}

// InvalidFields lists the fields of a request that err says are wrong; nil: err is about
// something else. What err only quotes as a cause does not count: the error of a Policy
// or of a store says nothing about the request.
func InvalidFields(err error) []*InvalidError {
	switch e := err.(type) {
	case *InvalidError:
		return []*InvalidError{e}
	case interface{ Unwrap() error }:
		return InvalidFields(e.Unwrap())
	case interface{ Unwrap() []error }:
		var fields []*InvalidError
		for i, part := range e.Unwrap() {
			// The first part says what an error is; in one of ours the others are its causes.
			if fields = append(fields, InvalidFields(part)...); i == 0 && len(fields) == 0 {
				return nil
			}
		}
		return fields
	}
	return nil
}

// wrongFields are all wrong fields of one request, two at least.
type wrongFields []*InvalidError

func (w wrongFields) Error() string {
	texts := make([]string, len(w))
	for i, e := range w {
		texts[i] = e.says()
	}
	return fmt.Sprintf("%v: %s", ErrInvalid, strings.Join(texts, "; "))
}

func (w wrongFields) Unwrap() []error {
	parts := make([]error, len(w))
	for i, e := range w {
		parts[i] = e
	}
	return parts
}

// allWrong makes one error of several checks of a request, each of which may be nil. All
// wrong fields together are one error. If the first error is not about a field, it is
// returned alone; a later one is left out until all fields are right.
func allWrong(checks ...error) error {
	var fields wrongFields
	for _, err := range checks {
		if err == nil {
			continue
		}
		wrong := InvalidFields(err)
		if len(wrong) == 0 && len(fields) == 0 {
			return err
		}
		fields = append(fields, wrong...)
	}
	switch len(fields) {
	case 0:
		return nil
	case 1:
		return fields[0]
	}
	return fields
}

// wrong makes an InvalidError; the text is for developers.
func wrong(field string, code InvalidCode, format string, args ...any) *InvalidError {
	return &InvalidError{Field: field, Code: code, text: fmt.Sprintf(format, args...)}
}

// part names the wrong part of the field.
func (e *InvalidError) part(value string) *InvalidError {
	e.Value = short(value)
	return e
}

// within says the bounds.
func (e *InvalidError) within(least, most int) *InvalidError {
	e.Min, e.Max = least, most
	return e
}

// tooLong refuses a text of more than most bytes.
func tooLong(field string, text string, most int) error {
	if len(text) <= most {
		return nil
	}
	return wrong(field, InvalidTooLong, "%s has %d bytes, at most %d", strings.ReplaceAll(field, "_", " "), len(text), most).within(0, most)
}

// storableText refuses a text of more than most bytes, or one that some engine cannot
// keep.
func storableText(field string, text string, most int) error {
	if err := tooLong(field, text, most); err != nil {
		return err
	}
	if !storable(text) {
		return wrong(field, InvalidText, "%s is not valid UTF-8, or has a NUL", strings.ReplaceAll(field, "_", " "))
	}
	return nil
}

// storable reports whether every engine can keep s byte for byte.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// maxID is how many bytes the program's IDs of accounts and actors may have.
const maxID = 255

// validID checks an ID of an account or an actor that a request names.
func validID(field, id string) error {
	if id == "" {
		return wrong(field, InvalidRequired, "%s %s: want 1 to %d bytes of valid UTF-8", field, quote(id), maxID)
	}
	return storableText(field, id, maxID)
}

// ofField names the field of an error that did not know it.
func ofField(field string, err error) error {
	var e *InvalidError
	if errors.As(err, &e) {
		named := *e
		named.Field = field
		return &named
	}
	return err
}

// quotedBytes is how many bytes of a caller's text an error shows.
const quotedBytes = 60

// short cuts a caller's text to what an error shows, at the end of a character.
func short(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), quotedBytes+utf8.UTFMax)], "\uFFFD")
	if len(s) <= quotedBytes {
		return s
	}
	end := quotedBytes
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// invalid is an ErrInvalid that is about no field of a request, but about a
// configuration or a bug of the program. It says what to do.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// quote shows a caller's text in an error without letting it flood a log.
func quote(s string) string {
	if len(s) > quotedBytes {
		return fmt.Sprintf("%.*q…", quotedBytes, s)
	}
	return fmt.Sprintf("%q", s)
}
