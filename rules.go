package apikey

import (
	"maps"
	"slices"
	"time"
)

// Rules is what a page has to know of a Manager to draw its forms, so that nothing is
// configured a second time: what a key may be given, what is too long, which actions ask
// for an approval. It is the same for every account and actor: [Manager.May] says what one
// actor may do to one key. It holds no secret, and may be sent to the merchant, as JSON
// too.
type Rules struct {
	Catalog []CatalogEntry `json:"catalog,omitzero"` // in the order of Settings.Catalog
	Limits  Limits         `json:"limits"`           // as they are in force: none is 0
	Tokens  []TokenHead    `json:"tokens,omitzero"`  // how the tokens of each kind and mode begin

	// Guards are the actions that a factor has to approve, in the order of the actions and
	// modes; an action that is not listed needs no approval. Besides, an approval is always
	// needed to enrol, replace or disable one's own factor, by the factors that Enroll and
	// Disable name. A Revoke with ReasonCompromised never needs one.
	Guards []Guard `json:"guards,omitzero"`
	// Factors are ManagerConfig.Factors, by name.
	Factors []FactorRule `json:"factors,omitzero"`
	// Recoverable lists the modes in which a new key can be Recoverable and its token
	// revealed later: there is a KEK, and StepUp names a factor for ActionReveal (or
	// InsecureRevealWithoutStepUp is set). Empty: a secret token is shown once.
	Recoverable []Mode `json:"recoverable,omitzero"`

	RotateMonths int `json:"rotate_months"` // the most that a key can have; the least is 1
	ReasonBytes  int `json:"reason_bytes"`  // the longest RevokeRequest.Reason

	Skew          time.Duration `json:"-"` // around RotateRequest.At both tokens are accepted for so long; in JSON skew_seconds
	ChallengeTime time.Duration `json:"-"` // within which a challenge is answered; in JSON challenge_time_seconds
	GrantTime     time.Duration `json:"-"` // within which a grant is used; in JSON grant_time_seconds
	HideAfter     time.Duration `json:"-"` // Revealed.HideAfter; in JSON hide_after_seconds
}

// TokenHead is how the tokens of one kind and mode begin.
type TokenHead struct {
	Kind Kind   `json:"kind,omitzero"`
	Mode Mode   `json:"mode,omitzero"`
	Head string `json:"head"` // "acme_sk_live_"
}

// Guard is an action that one of the Factors has to approve.
type Guard struct {
	// Action is one that StepUp can guard. ActionWiden is an update that lets the key do
	// more: if ActionUpdate is guarded too, the factor has to approve both.
	Action Action `json:"action,omitzero"`
	// Mode of the key; zero: the action is about another actor and about no mode. An
	// Operator needs no approval for that.
	Mode    Mode     `json:"mode,omitzero"`
	Factors []string `json:"factors,omitzero"` // any one of them
}

// FactorRule is one factor of the program.
type FactorRule struct {
	Name    string `json:"name"`
	Enrolls bool   `json:"enrolls"` // each actor sets it up: it is an [Enroller]
}

// Rules returns the rules of this Manager, from memory. The caller may change what it
// returns.
func (m *Manager) Rules() Rules {
	r := Rules{
		Catalog: m.settings.Catalog.Entries(), Limits: m.limits, RotateMonths: maxRotateMonths, ReasonBytes: maxReason,
		Skew: m.skew, ChallengeTime: challengeTime, GrantTime: grantTime, HideAfter: hideAfter,
	}
	for _, h := range heads {
		r.Tokens = append(r.Tokens, TokenHead{Kind: h.kind, Mode: h.mode, Head: m.settings.Prefix + h.text})
	}
	for _, act := range guardable {
		r.Guards = append(r.Guards, m.cfg.guards(act)...)
	}
	for _, name := range slices.Sorted(maps.Keys(m.cfg.Factors)) {
		_, err := m.enroller(name)
		r.Factors = append(r.Factors, FactorRule{Name: name, Enrolls: err == nil})
	}
	for _, mode := range []Mode{Live, Test} {
		if len(m.vault.keks) > 0 && m.cfg.reveals(mode) {
			r.Recoverable = append(r.Recoverable, mode)
		}
	}
	return r
}

// guards returns the guards of an action.
func (c ManagerConfig) guards(act Action) (list []Guard) {
	modes := []Mode{Live, Test}
	if slices.Contains(forAnother, act) {
		modes = []Mode{0}
	}
	for _, mode := range modes {
		if named := c.factorsFor(act, mode); len(named) > 0 {
			list = append(list, Guard{Action: act, Mode: mode, Factors: slices.Clone(named)})
		}
	}
	return list
}
