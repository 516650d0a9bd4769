package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// IssueRequest describes a new key. The zero value of a field is the safe or the usual
// choice; Mode is required. The body of an HTTP request reads into it: its members are
// called like the fields of the key's [Info] in JSON.
type IssueRequest struct {
	Account string `json:"account,omitzero"` // empty: the actor's own; an Operator has to name it
	Mode    Mode   `json:"mode,omitzero"`
	Kind    Kind   `json:"kind,omitzero"` // zero: Secret
	// Name is the merchant's name for the key; may be empty. Control characters,
	// characters that turn the direction of text, and invisible ones outside words and
	// emoji are ErrInvalid.
	Name string `json:"name,omitzero"`
	// Abilities are texts that the Catalog knows: "payment:refund", "payment:*",
	// "balance=read". A publishable key may have only abilities that the Catalog marks
	// publishable.
	Abilities []string  `json:"abilities,omitzero"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // first instant at which the key is refused; zero: never
	// Networks lists the addresses from which the key may be used; empty: any. Host bits
	// are cleared, and 4-in-6 prefixes become IPv4.
	Networks []netip.Prefix `json:"networks,omitzero"`
	// Origins are the web origins that may use the key, "https://shop.example"; empty:
	// any. They are stored in the form in which browsers send them. An origin that no
	// browser sends is ErrInvalid.
	Origins      []string          `json:"origins,omitzero"`
	Metadata     map[string]string `json:"metadata,omitzero"`
	RotateMonths int               `json:"rotate_months,omitzero"` // remind to rotate after so many months, up to 120; 0: never; see [Info.RotateDue]
	// Disabled issues the key suspended. Without it the key works at once.
	Disabled bool `json:"disabled,omitzero"`
	// Recoverable stores a sealed copy of the token for Reveal, which needs a KEK. Without
	// it the token is shown once, and only its hash is stored.
	Recoverable bool `json:"recoverable,omitzero"`
	// IdempotencyKey: for 24 hours, the same request with the same IdempotencyKey makes no
	// second key. Up to 255 bytes, unique in the account and mode. Empty: none.
	IdempotencyKey string `json:"idempotency_key,omitzero"`

	Grant Grant `json:"-"` // if StepUp guards ActionIssue
}

func (r IssueRequest) guarded() approval { return newIssuing(r).approval() }

// Issued is a new key with its token. The store has only a hash of a secret token (and
// a sealed copy, if the key is Recoverable). The JSON of Issued has a secret token
// redacted: whoever answers with it writes Token.Reveal themselves.
type Issued struct {
	Token Token `json:"token,omitzero"`
	Key   Info  `json:"key"`
}

// Issue makes a key and returns its token. A secret token is returned only this once.
//
// If a request is repeated with its idempotency key, Issue returns the earlier key, no
// token, and ErrAlreadyIssued. Errors: those of the table in the package documentation,
// and:
//   - ErrNotFound: when Account is another account than the actor's
//   - ErrAlreadyIssued: the idempotency key was used for this request
//   - ErrIdempotencyMismatch: the idempotency key was used for another request
//   - ErrStanding, ErrLimit, ErrBusy
//   - ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked
func (m *Manager) Issue(ctx context.Context, req IssueRequest) (Issued, error) {
	return m.own().issue(ctx, req)
}

func (s session) issue(ctx context.Context, req IssueRequest) (issued Issued, err error) {
	i := newIssuing(req)
	var d *drawn
	j := i.approval().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		r := i.blank
		if d == nil { // once: a retry after a conflict keeps ID, token and hash
			_, group, err := s.growth(ctx, a, r.Account, 1, nil, s.settings.Now())
			if err != nil {
				return effect{}, err
			}
			if d, err = s.draw(ctx, r, group); err != nil {
				return effect{}, err
			}
		}
		now := s.settings.Now()
		if err := d.complete(r, now); err != nil {
			return effect{}, err
		}
		growth, _, err := s.growth(ctx, a, r.Account, 1, r, now)
		if err != nil {
			return effect{}, err
		}
		e := effect{made: []made{{record: r, credential: d.cred.ID, changed: namesOf(settingsSet(r))}}, items: []StoreItem{growth}}
		if i.idem != nil {
			i.idem.Data, i.idem.ExpiresAt = append(i.idem.Data, r.ID[:]...), micros(now.Add(idemTime))
			e.items = append(e.items, *i.idem)
		}
		if r.works(now) {
			quota, err := s.quota(ctx, r.Account, r.Mode, now)
			if err != nil {
				return effect{}, err
			}
			e.items = append(e.items, quota)
		}
		issued = Issued{d.token, s.describeAll(r, now)}
		issued.Key.Version = 1
		return e, nil
	}
	err = s.do(ctx, j)
	switch {
	case errors.Is(err, ErrAlreadyIssued):
		return Issued{Key: i.earlier}, err
	case err != nil: // an attempt that ended in a conflict left its key in issued
		return Issued{}, err
	}
	return issued, nil
}

// issuing is one call of Issue, or the challenge for one. Each attempt makes the record
// once: plan makes and checks the record, Policy and StepUp are shown it, and work
// completes it.
type issuing struct {
	IssueRequest

	// What the present attempt found:
	blank   *StoreRecord // see session.blank
	refused error        // why there is no blank
	idem    *StoreItem   // to be written with the key; nil: the request has no idempotency key
	earlier Info         // the key that was issued with this idempotency key before
}

func newIssuing(r IssueRequest) *issuing {
	r.Kind = cmp.Or(r.Kind, Secret)
	return &issuing{IssueRequest: r}
}

func (i *issuing) approval() approval {
	return approval{
		job: job{
			action: ActionIssue, subject: anAccount, account: i.Account, mode: i.Mode, kind: i.Kind, name: i.Name, stands: true,
			plan: i.plan, refuses: i.issuable, wrong: i.wrong,
		},
		sum: sumOf(ActionIssue, func(c *canon.Writer) {
			sum := i.IssueRequest.sum()
			c.Bytes(sum[:])
			c.Text(i.IdempotencyKey)
		}),
	}
}

func (i *issuing) plan(_ context.Context, s session, a Actor, _ *StoreRecord, now time.Time) ([]planned, error) {
	if i.blank, i.refused = s.blank(accountOf(a, i.Account), i.IssueRequest, now); i.refused != nil {
		return nil, i.refused
	}
	return []planned{{would: i.blank}}, nil
}

func (i *issuing) wrong(s session, now time.Time) error {
	_, err := s.checked("", i.IssueRequest, now)
	return allWrong(err, i.validKey())
}

// validKey checks the idempotency key.
func (r IssueRequest) validKey() error { return tooLong("idempotency_key", r.IdempotencyKey, 255) }

// issuable refuses a request in this order: if a key was made with its idempotency key
// already, if plan has refused it (which admit returns, with what is wrong here), if the
// new key is beyond a limit. So a repeated request is answered with the earlier key,
// without a grant, even if the same key could not be made today.
func (i *issuing) issuable(ctx context.Context, s session, a Actor, _ *StoreRecord) (err error) {
	now := s.settings.Now()
	if i.idem, i.earlier, err = s.idempotency(ctx, accountOf(a, i.Account), i.IssueRequest, now); err != nil {
		return err
	}
	if i.refused != nil {
		return nil
	}
	return s.room(ctx, a, i.blank, now)
}

// drawn holds the random parts of a new key, with the hash of its token.
type drawn struct {
	id    KeyID
	cred  StoreCredential
	token Token
}

// draw gives a blank record its ID, and makes the first credential for that ID, in the
// account's group.
func (s session) draw(ctx context.Context, r *StoreRecord, group string) (*drawn, error) {
	r.ID = newKeyID()
	cred, token, err := s.newCredential(ctx, r, group)
	if err != nil {
		return nil, err
	}
	return &drawn{r.ID, cred, token}, nil
}

// complete puts ID, credential and dates into a blank record, so that it can be
// written. Hashing may have waited for seconds, so the dates are set after it.
func (d *drawn) complete(r *StoreRecord, now time.Time) error {
	r.ID, r.Credentials = d.id, []StoreCredential{d.cred}
	return r.date(now)
}

// date sets the dates of a record to now, and checks its expiry again: that may have
// come while the token was hashed.
func (r *StoreRecord) date(now time.Time) error {
	r.CreatedAt = micros(now)
	if r.RotateMonths > 0 {
		r.RotateDue = monthsAfter(now, r.RotateMonths)
	}
	return validEnd(r.ExpiresAt, now)
}

// asked returns the request as a record, unchecked. The record shares the request's
// slices.
func (r IssueRequest) asked() StoreRecord {
	return StoreRecord{
		Name: r.Name, Mode: r.Mode, Kind: r.Kind, Abilities: r.Abilities, ExpiresAt: micros(r.ExpiresAt),
		Networks: r.Networks, Origins: r.Origins, Metadata: r.Metadata, RotateMonths: r.RotateMonths, Disabled: r.Disabled,
	}
}

// blank returns the record that a request asks for, checked, without ID and credential.
func (s session) blank(account string, req IssueRequest, now time.Time) (*StoreRecord, error) {
	r, err := s.checked(account, req, now)
	if err = allWrong(validID("account", account), err); err == nil {
		err = s.hasProducts(r)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// checked is blank without the account.
func (s session) checked(account string, req IssueRequest, now time.Time) (*StoreRecord, error) {
	made := req.asked().clone() // deep: lists are sorted in the copy, not in the caller's slices
	r := &made
	r.Account = account
	r.Recoverable = req.Recoverable && traits(r.Kind).sealed // a publishable token can always be shown
	return r, allWrong(validMode(r.Mode), validKind(r.Kind), s.valid(r, settings), cmp.Or(validEnd(req.ExpiresAt, now), r.date(now)), s.sealable(r))
}

// sealable refuses a recoverable key that nothing could seal.
func (s session) sealable(r *StoreRecord) error {
	if r.Recoverable && len(s.vault.keks) == 0 {
		return wrong("recoverable", InvalidUnavailable, "a Recoverable key needs a KEK in ManagerConfig.KEKs")
	}
	return nil
}

// validEnd checks an expiry. RFC 3339 has no year after 9999, so one key with such an
// expiry would make a whole list fail to be written as JSON.
func validEnd(t, now time.Time) error {
	switch {
	case t.IsZero():
		return nil
	case t.After(lastInstant):
		return wrong("expires_at", InvalidTooLate, "ExpiresAt is after the year 9999; leave it out for a key that never expires")
	case !micros(t).After(now):
		return wrong("expires_at", InvalidPast, "ExpiresAt %s is not in the future (it is %s)", t.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// newCredential mints a token of a group (see reads), and makes the credential to store
// for it.
func (s session) newCredential(ctx context.Context, r *StoreRecord, group string) (StoreCredential, Token, error) {
	id := newCredentialID()
	copy(id[len(id)-groupLen:], group)
	p := mint(s.settings.Prefix, r.Kind, r.Mode, id, s.minting())
	token := newToken(p.text)
	cred := StoreCredential{ID: p.id, Hint: token.Hint(), Pepper: p.slot}
	if traits(r.Kind).published {
		cred.Public = p.text
		return cred, token, nil
	}
	encoded, err := s.hash(withPath(ctx, hashLine(r)), p)
	if err != nil {
		return StoreCredential{}, Token{}, err
	}
	cred.Hash, cred.Check = encoded, makeCheck(s.minting(), p)
	if r.Recoverable {
		if cred.Sealed, cred.SealedKEK, err = s.vault.seal(ctx, []byte(p.text), sealedAAD(r, p.id)); err != nil {
			return StoreCredential{}, Token{}, err
		}
	}
	return cred, token, nil
}

// The kinds of items that issuing uses, besides those in manager_items.go.
const (
	itemIdem      StoreItemKind = "idem"      // an idempotency key: request hash, key ID
	itemProvision StoreItemKind = "provision" // the publishable key of an account and mode
)

const idemTime = 24 * time.Hour

// idempotency looks up an idempotency key. It returns the item to write with a new key.
// If nothing is to be written, it returns an error that says why, and for
// ErrAlreadyIssued the earlier key.
func (s session) idempotency(ctx context.Context, account string, req IssueRequest, now time.Time) (*StoreItem, Info, error) {
	if req.IdempotencyKey == "" {
		return nil, Info{}, nil
	}
	if err := req.validKey(); err != nil {
		return nil, Info{}, err
	}
	it, err := s.item(ctx, itemIdem, itemID(account, req.Mode, req.IdempotencyKey))
	if err != nil {
		return nil, Info{}, err
	}
	sum := req.sum()
	if it.Version > 0 && now.Before(it.ExpiresAt) {
		if len(it.Data) != len(sum)+16 || string(it.Data[:len(sum)]) != string(sum[:]) {
			return nil, Info{}, ErrIdempotencyMismatch
		}
		r, err := s.named(ctx, KeyID(it.Data[len(sum):]), account, req.Mode)
		if err != nil {
			return nil, Info{}, err
		}
		return nil, s.describeAll(r, now), ErrAlreadyIssued
	}
	it.Version++
	it.Data = sum[:]
	return &it, Info{}, nil
}

// named reads the key that an item names, and checks its account and mode. No MAC
// covers such an item. Somebody who writes to the database could make the item name
// another merchant's key: that key would be shown here, or a foreign publishable key
// would be put on this merchant's pages.
func (s session) named(ctx context.Context, id KeyID, account string, m Mode) (*StoreRecord, error) {
	r, err := s.store.Get(ctx, id)
	if err != nil {
		return nil, storeError(err)
	}
	if err := s.believe(&r); err != nil {
		return nil, err
	}
	if r.Account != account || r.Mode != m {
		return nil, fmt.Errorf("%w: an item names a key of another account or mode", ErrCorrupt)
	}
	return &r, nil
}

// sum hashes the key that a request asks for: mode, kind, settings and Recoverable.
func (r IssueRequest) sum() [32]byte {
	var c canon.Writer
	c.Text("apikey issue v1")
	c.Uint(uint64(r.Mode))
	c.Uint(uint64(r.Kind))
	asked := r.asked()
	for _, s := range settings {
		s.sumRecord(&c, &asked)
	}
	c.Bool(r.Recoverable)
	return c.Sum()
}
