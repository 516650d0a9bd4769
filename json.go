package apikey

import (
	"encoding/json"
	"math"
	"time"
)

// Most answers of Manager and Verifier are marshalled by the tags of their fields. This
// file has the types that need methods.

// MarshalJSON writes an array, [] if the View is empty. Abilities are written as their
// texts.
func (v View[T]) MarshalJSON() ([]byte, error) {
	if held, ok := any(v.s).([]Ability); ok {
		return abilitiesJSON(held)
	}
	if v.s == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(v.s)
}

// UnmarshalJSON reads an array; null is the empty View. In a View of abilities, each text
// has to be a scope or a product level. Any other text is ErrInvalid, because only the
// program's [Catalog] can read it: see [Catalog.ParseInfo].
func (v *View[T]) UnmarshalJSON(b []byte) error {
	var s []T // fresh: a View that was handed out does not change
	var err error
	if held, ok := any(&s).(*[]Ability); ok {
		*held, err = (*Catalog)(nil).abilitiesFrom(b)
	} else {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return err
	}
	*v = viewOf(s)
	return nil
}

// abilitiesJSON writes the texts of abilities. A form of the program's own may be any Go
// type, so its own JSON is not asked.
func abilitiesJSON(held []Ability) ([]byte, error) {
	texts := make([]string, len(held))
	for i, a := range held {
		if a == nil {
			return nil, invalid("a nil Ability has no JSON")
		}
		texts[i] = a.String()
	}
	return json.Marshal(texts)
}

// abilitiesFrom reads what abilitiesJSON writes. The nil Catalog reads the built-in forms.
func (c *Catalog) abilitiesFrom(b []byte) ([]Ability, error) {
	var texts []string
	if err := json.Unmarshal(b, &texts); err != nil {
		return nil, err
	}
	held := make([]Ability, len(texts))
	for i, text := range texts {
		a, err := c.parseForm(text)
		if err != nil {
			if c != nil {
				return nil, invalid("ability %s has no form of this Catalog", quote(text))
			}
			return nil, invalid("ability %s is neither a scope nor a product level: if it is of a form of the program's own, read it with Catalog.ParseInfo", quote(text))
		}
		held[i] = a
	}
	return held, nil
}

// ParseInfo reads the JSON of an [Info] whose key may hold abilities of the program's own
// forms, which json.Unmarshal refuses. As a stored key may, the Info may hold abilities
// that the catalog does not list. To read a [KeyList], read its data as a
// []json.RawMessage first. Errors: those of json.Unmarshal, and ErrInvalid for an ability
// that has no form of this catalog.
func (c *Catalog) ParseInfo(text []byte) (Info, error) {
	type plain Info
	var read struct {
		plain
		Abilities json.RawMessage `json:"abilities"` // in place of the one in plain
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return Info{}, err
	}
	info := Info(read.plain)
	if read.Abilities != nil {
		held, err := c.abilitiesFrom(read.Abilities)
		if err != nil {
			return Info{}, err
		}
		info.Abilities = viewOf(held)
	}
	return info, nil
}

// MarshalJSON writes an object, {} if the Metadata is empty.
func (m Metadata) MarshalJSON() ([]byte, error) {
	if m.m == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(m.m)
}

// UnmarshalJSON reads an object of texts; null is the empty Metadata.
func (m *Metadata) UnmarshalJSON(b []byte) error {
	var read map[string]string // fresh: a Metadata that was handed out does not change
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*m = metadataOf(read)
	return nil
}

type plainActor Actor

// MarshalJSON writes the fields, and "operator": true for an [Operator].
func (a Actor) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		plainActor
		Operator bool `json:"operator,omitzero"`
	}{plainActor(a), a.operator})
}

// UnmarshalJSON reads the fields and ignores "operator": the result is never an Operator,
// otherwise whoever writes the JSON could become one.
func (a *Actor) UnmarshalJSON(b []byte) error {
	read := plainActor(*a)
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	read.operator, read.holder = false, false // also if a was an Operator before
	*a = Actor(read)
	return nil
}

// seconds is a duration that JSON has as a number of seconds.
type seconds time.Duration

// MarshalJSON writes the number.
func (s seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Seconds()) }

// UnmarshalJSON reads the number; null is zero.
func (s *seconds) UnmarshalJSON(b []byte) error {
	var read float64
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*s = seconds(math.Round(read * float64(time.Second)))
	return nil
}

type (
	plainRevealed Revealed
	revealedJSON  struct {
		plainRevealed
		HideAfter seconds `json:"hide_after_seconds"`
	}
)

// MarshalJSON writes the fields, with HideAfter as hide_after_seconds.
func (r Revealed) MarshalJSON() ([]byte, error) {
	return json.Marshal(revealedJSON{plainRevealed(r), seconds(r.HideAfter)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Revealed) UnmarshalJSON(b []byte) error {
	read := revealedJSON{plainRevealed(*r), seconds(r.HideAfter)}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*r = Revealed(read.plainRevealed)
	r.HideAfter = time.Duration(read.HideAfter)
	return nil
}

type (
	plainLimits Limits
	limitsJSON  struct {
		plainLimits
		Overlap seconds `json:"overlap_seconds"`
	}
)

// MarshalJSON writes the fields, with Overlap as overlap_seconds.
func (l Limits) MarshalJSON() ([]byte, error) {
	return json.Marshal(limitsJSON{plainLimits(l), seconds(l.Overlap)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (l *Limits) UnmarshalJSON(b []byte) error {
	read := limitsJSON{plainLimits(*l), seconds(l.Overlap)}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*l = Limits(read.plainLimits)
	l.Overlap = time.Duration(read.Overlap)
	return nil
}

type (
	plainRules Rules
	rulesJSON  struct {
		plainRules
		Skew          seconds `json:"skew_seconds"`
		ChallengeTime seconds `json:"challenge_time_seconds"`
		GrantTime     seconds `json:"grant_time_seconds"`
		HideAfter     seconds `json:"hide_after_seconds"`
	}
)

// MarshalJSON writes the fields, the durations in seconds: Skew as skew_seconds.
func (r Rules) MarshalJSON() ([]byte, error) {
	return json.Marshal(rulesJSON{plainRules(r), seconds(r.Skew), seconds(r.ChallengeTime), seconds(r.GrantTime), seconds(r.HideAfter)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Rules) UnmarshalJSON(b []byte) error {
	read := rulesJSON{plainRules(*r), seconds(r.Skew), seconds(r.ChallengeTime), seconds(r.GrantTime), seconds(r.HideAfter)}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	*r = Rules(read.plainRules)
	r.Skew, r.ChallengeTime = time.Duration(read.Skew), time.Duration(read.ChallengeTime)
	r.GrantTime, r.HideAfter = time.Duration(read.GrantTime), time.Duration(read.HideAfter)
	return nil
}
