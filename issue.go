package apikey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// IssueRequest describes a new key. The zero value of a field is the safe or
// the usual choice; Mode is required.
type IssueRequest struct {
	Account string // empty: the actor's own; an Operator has to name it
	Mode    Mode
	Kind    Kind // zero: Secret
	// Name is what the merchant calls it; may be empty. Control characters, those that
	// turn the direction of text, and invisible ones outside words and emoji are
	// ErrInvalid.
	Name string
	// Abilities are texts that the Catalog knows: "payment:refund",
	// "payment:*", "balance=read". A publishable key takes only those marked
	// publishable.
	Abilities []string
	ExpiresAt time.Time // first instant at which it is refused; zero: never
	// Networks lists the addresses that may use it; empty: any. Host bits are
	// cleared, and 4-in-6 prefixes become IPv4.
	Networks []netip.Prefix
	// Origins are the web origins that may use it, "https://shop.example"; empty: any.
	// They are kept in the form in which browsers send them; what none sends is
	// ErrInvalid.
	Origins      []string
	Metadata     map[string]string
	RotateMonths int // remind to rotate after so many months, up to 120; 0: never; see [Info.RotateDue]
	// Disabled issues it suspended; the zero request is a working key.
	Disabled bool
	// Recoverable keeps a sealed copy of the token for Reveal; it needs a KEK.
	// Otherwise the token is shown once and only its hash is kept.
	Recoverable bool
	// IdempotencyKey makes a repeated request harmless for 24 hours: up to 255
	// bytes, unique in the account and mode. Empty: none.
	IdempotencyKey string

	Grant Grant `json:"-"` // when StepUp guards ActionIssue
}

func (r IssueRequest) guarded() approval {
	r.Kind = cmp.Or(r.Kind, Secret)
	return approval{
		job: job{
			action: ActionIssue, subject: anAccount, account: r.Account, mode: r.Mode, kind: r.Kind, name: r.Name, stands: true,
			plan: func(_ context.Context, s session, a Actor, _ *StoreRecord, now time.Time) ([]planned, error) {
				blank, err := s.blank(accountOf(a, r.Account), r, now)
				if err != nil {
					return nil, err
				}
				return []planned{{would: blank}}, nil
			},
			first: func(ctx context.Context, s session, a Actor, _ *StoreRecord) error {
				_, _, err := s.issuable(ctx, a, r)
				return err
			},
		},
		sum: sumOf(ActionIssue, func(c *canon.Writer) {
			sum := r.sum()
			c.Bytes(sum[:])
			c.Text(r.IdempotencyKey)
		}),
	}
}

// Issued is a new key with its token, which is nowhere else: a secret token is
// kept as a hash.
type Issued struct {
	Token Token
	Key   Info
}

// Issue makes a key and returns its token, the only time for a secret one.
//
// A request repeated under its idempotency key answers with the key, no secret
// token, and ErrAlreadyIssued. Errors: ErrNoActor, ErrNotFound (another's
// account), ErrForbidden, ErrStepUpRequired (as *[ChallengeError]), ErrGrant, ErrLocked,
// ErrStanding, ErrInvalid, ErrLimit, ErrAlreadyIssued,
// ErrIdempotencyMismatch, ErrBusy, ErrConflict, ErrUnavailable.
func (m *Manager) Issue(ctx context.Context, req IssueRequest) (Issued, error) {
	return m.own().issue(ctx, req)
}

func (s session) issue(ctx context.Context, req IssueRequest) (issued Issued, err error) {
	req.Kind = cmp.Or(req.Kind, Secret)
	var fresh *StoreRecord
	var token Token
	var idem *StoreItem
	j := req.guarded().asking(req.Grant)
	// As guarded has it, and keeps what it found. A replay's grant was spent by what
	// it repeats.
	j.first = func(ctx context.Context, s session, a Actor, _ *StoreRecord) (err error) {
		idem, issued.Key, err = s.issuable(ctx, a, req)
		return err
	}
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		account := accountOf(a, req.Account)
		if fresh == nil { // once: a retry after a conflict keeps token and hash
			var err error
			if fresh, token, err = s.fresh(ctx, a, account, req); err != nil {
				return effect{}, err
			}
		}
		now, r := s.cfg.Now(), fresh.clone()
		if err := r.date(now); err != nil {
			return effect{}, err
		}
		growth, _, err := s.growth(ctx, a, account, 1, fresh, now)
		if err != nil {
			return effect{}, err
		}
		e := effect{made: []made{{record: &r, credential: r.Credentials[0].ID, changed: fieldsSet(&r)}}, items: []StoreItem{growth}}
		if idem != nil {
			idem.Data, idem.ExpiresAt = append(idem.Data, r.ID[:]...), micros(now.Add(idemTime))
			e.items = append(e.items, *idem)
		}
		if r.live(now) {
			quota, err := s.quota(ctx, account, req.Mode, now)
			if err != nil {
				return effect{}, err
			}
			e.items = append(e.items, quota)
		}
		issued = Issued{token, s.describeAll(&r, now)}
		issued.Key.Version = 1
		return e, nil
	}
	err = s.do(ctx, j)
	switch {
	case errors.Is(err, ErrAlreadyIssued):
		return Issued{Key: issued.Key}, err
	case err != nil: // an attempt that lost its race left its key here
		return Issued{}, err
	}
	return issued, nil
}

// issuable is whether a key can be made: the item of its idempotency key to write, or
// the earlier key and why there is none, or which limit has been reached.
func (s session) issuable(ctx context.Context, a Actor, req IssueRequest) (*StoreItem, Info, error) {
	account, now := accountOf(a, req.Account), s.cfg.Now()
	idem, earlier, err := s.idempotency(ctx, account, req, now)
	if err != nil {
		return nil, earlier, err
	}
	blank, err := s.blank(account, req, now)
	if err != nil {
		return nil, Info{}, err
	}
	return idem, Info{}, s.room(ctx, a, blank, now)
}

// fresh is the record that a request asks for, with its token: nil with an error.
func (s session) fresh(ctx context.Context, a Actor, account string, req IssueRequest) (*StoreRecord, Token, error) {
	asked := s.cfg.Now()
	blank, err := s.blank(account, req, asked)
	if err != nil {
		return nil, Token{}, err
	}
	_, group, err := s.growth(ctx, a, account, 1, nil, asked)
	if err != nil {
		return nil, Token{}, err
	}
	token, err := s.draw(ctx, blank, group)
	if err != nil {
		return nil, Token{}, err
	}
	return blank, token, nil
}

// draw gives a blank record its first credential, of the account's group, and returns
// the token. Hashing may wait for seconds, so the record is dated afterwards.
func (s session) draw(ctx context.Context, r *StoreRecord, group string) (Token, error) {
	cred, token, err := s.newCredential(ctx, r, group)
	if err != nil {
		return Token{}, err
	}
	r.Credentials = []StoreCredential{cred}
	return token, nil
}

// date gives a record that was drawn the dates of now. The key's end may have come
// while its token was hashed.
func (r *StoreRecord) date(now time.Time) error {
	r.CreatedAt = micros(now)
	if r.RotateMonths > 0 {
		r.RotateDue = monthsAfter(now, r.RotateMonths)
	}
	return validEnd(r.ExpiresAt, now)
}

// blank is the record that a request asks for, checked, without a credential.
func (s session) blank(account string, req IssueRequest, now time.Time) (*StoreRecord, error) {
	r := &StoreRecord{
		ID: newKeyID(), Account: account, Name: req.Name, Mode: req.Mode, Kind: req.Kind,
		Abilities: slices.Clone(req.Abilities), Networks: slices.Clone(req.Networks), Origins: slices.Clone(req.Origins),
		Metadata: maps.Clone(req.Metadata), Disabled: req.Disabled, RotateMonths: req.RotateMonths,
		ExpiresAt: micros(req.ExpiresAt),
	}
	if err := validOwner(r); err != nil { // Catalog.Products is called for whom there is
		return nil, err
	}
	if err := cmp.Or(s.valid(r, settable), validEnd(req.ExpiresAt, now), r.date(now)); err != nil {
		return nil, err
	}
	if req.Recoverable && r.Kind == Secret { // a publishable token is never hidden
		if len(s.vault.keks) == 0 {
			return nil, invalid("a Recoverable key needs a KEK in ManagerConfig.KEKs")
		}
		r.Recoverable = true
	}
	return r, nil
}

// validEnd checks when a key is to expire. RFC 3339 writes no year after 9999,
// and one such key would keep a whole list from being written as JSON.
func validEnd(t, now time.Time) error {
	switch {
	case t.IsZero():
		return nil
	case t.After(lastInstant):
		return invalid("ExpiresAt is after the year 9999; leave it out for a key that never expires")
	case !micros(t).After(now):
		return invalid("ExpiresAt %s is not in the future (it is %s)", t.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// newCredential mints a token of a group (see reads), and what is kept of it.
func (s session) newCredential(ctx context.Context, r *StoreRecord, group string) (StoreCredential, Token, error) {
	id := newCredentialID()
	copy(id[len(id)-groupLen:], group)
	p := mint(s.prefix, r.Kind, r.Mode, id, s.ring.first)
	token := newToken(p.text)
	cred := StoreCredential{ID: p.id, Hint: token.Hint(), Pepper: p.slot}
	if r.Kind == Publishable {
		cred.Public = p.text
		return cred, token, nil
	}
	encoded, err := s.hash(withPath(ctx, hashLine(r)), p)
	if err != nil {
		return StoreCredential{}, Token{}, err
	}
	cred.Hash, cred.Check = encoded, makeCheck(s.ring.first, p)
	if r.Recoverable {
		if cred.Sealed, cred.SealedKEK, err = s.vault.seal(ctx, []byte(p.text), sealedAAD(r, p.id)); err != nil {
			return StoreCredential{}, Token{}, err
		}
	}
	return cred, token, nil
}

// The kinds of items that issuing uses, besides those in manager_quota.go.
const (
	itemIdem      StoreItemKind = "idem"      // an idempotency key: request hash, key ID
	itemProvision StoreItemKind = "provision" // the publishable key of an account and mode
)

const idemTime = 24 * time.Hour

// idempotency looks an idempotency key up. It returns the item to write, or
// the earlier key and why nothing is to be written.
func (s session) idempotency(ctx context.Context, account string, req IssueRequest, now time.Time) (*StoreItem, Info, error) {
	if req.IdempotencyKey == "" {
		return nil, Info{}, nil
	}
	if len(req.IdempotencyKey) > 255 {
		return nil, Info{}, fmt.Errorf("%w: idempotency key has %d bytes, at most 255", ErrLimit, len(req.IdempotencyKey))
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

// named reads a key that an item names. No MAC covers items: one that was bent
// to the key of another merchant would show that key here, or put a
// foreign publishable key on this merchant's pages.
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

// sum identifies what a request asks for.
func (r IssueRequest) sum() [32]byte {
	var c canon.Writer
	c.Text("apikey issue v1")
	c.Uint(uint64(r.Mode))
	c.Uint(uint64(r.Kind))
	c.Text(r.Name)
	c.Texts(r.Abilities)
	c.Time(micros(r.ExpiresAt))
	c.Uint(uint64(len(r.Networks)))
	for _, n := range r.Networks {
		c.Text(n.String())
	}
	c.Texts(r.Origins)
	m := Metadata{r.Metadata}
	c.Uint(uint64(m.Len()))
	for name, value := range m.All() {
		c.Text(name)
		c.Text(value)
	}
	c.Uint(uint64(r.RotateMonths))
	c.Bool(r.Disabled)
	c.Bool(r.Recoverable)
	return c.Sum()
}
