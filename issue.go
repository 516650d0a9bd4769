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

func (r IssueRequest) guarded() approval { return newIssuing(r).approval() }

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
	i := newIssuing(req)
	var d *drawn
	j := i.approval().asking(req.Grant)
	j.work = func(a Actor, _ *StoreRecord) (effect, error) {
		r := i.blank
		if d == nil { // once: a retry after a conflict keeps ID, token and hash
			_, group, err := s.growth(ctx, a, r.Account, 1, nil, s.cfg.Now())
			if err != nil {
				return effect{}, err
			}
			if d, err = s.draw(ctx, r, group); err != nil {
				return effect{}, err
			}
		}
		now := s.cfg.Now()
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
	case err != nil: // an attempt that lost its race left its key here
		return Issued{}, err
	}
	return issued, nil
}

// issuing is one call of Issue, or the challenge for one. Each attempt makes its record
// once: plan makes and checks it, Policy and StepUp see it, and work completes it.
type issuing struct {
	IssueRequest

	// What the present attempt found:
	blank   *StoreRecord // see session.blank
	refused error        // why there is no blank
	idem    *StoreItem   // to be written with the key; nil: the request has no idempotency key
	earlier Info         // the key that the idempotency key stands for already
}

func newIssuing(r IssueRequest) *issuing {
	r.Kind = cmp.Or(r.Kind, Secret)
	return &issuing{IssueRequest: r}
}

func (i *issuing) approval() approval {
	return approval{
		job: job{
			action: ActionIssue, subject: anAccount, account: i.Account, mode: i.Mode, kind: i.Kind, name: i.Name, stands: true,
			plan: i.plan, refuses: i.issuable,
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

// issuable refuses a key that has been made under the idempotency key already, one that
// plan has refused, and one beyond a limit, in this order: a repeated request is
// answered with its key, and no grant, also when it could not be made today.
func (i *issuing) issuable(ctx context.Context, s session, a Actor, _ *StoreRecord) (err error) {
	now := s.cfg.Now()
	if i.idem, i.earlier, err = s.idempotency(ctx, accountOf(a, i.Account), i.IssueRequest, now); err != nil {
		return err
	}
	if i.refused != nil {
		return i.refused
	}
	return s.room(ctx, a, i.blank, now)
}

// drawn is what is random in a new key, with the hash of its token.
type drawn struct {
	id    KeyID
	cred  StoreCredential
	token Token
}

// draw gives a blank record its ID, and makes the first credential for that ID, of the
// account's group.
func (s session) draw(ctx context.Context, r *StoreRecord, group string) (*drawn, error) {
	r.ID = newKeyID()
	cred, token, err := s.newCredential(ctx, r, group)
	if err != nil {
		return nil, err
	}
	return &drawn{r.ID, cred, token}, nil
}

// complete makes a blank record one that can be written. Hashing may have waited for
// seconds, so the record is dated afterwards.
func (d *drawn) complete(r *StoreRecord, now time.Time) error {
	r.ID, r.Credentials = d.id, []StoreCredential{d.cred}
	return r.date(now)
}

// date gives a record the dates of now. The key's end may have come while its token
// was hashed.
func (r *StoreRecord) date(now time.Time) error {
	r.CreatedAt = micros(now)
	if r.RotateMonths > 0 {
		r.RotateDue = monthsAfter(now, r.RotateMonths)
	}
	return validEnd(r.ExpiresAt, now)
}

// asked is what a request says of its record, unchecked. It shares the request's slices.
func (r IssueRequest) asked() StoreRecord {
	return StoreRecord{
		Name: r.Name, Mode: r.Mode, Kind: r.Kind, Abilities: r.Abilities, ExpiresAt: micros(r.ExpiresAt),
		Networks: r.Networks, Origins: r.Origins, Metadata: r.Metadata, RotateMonths: r.RotateMonths, Disabled: r.Disabled,
	}
}

// blank is the record that a request asks for, checked, without ID and credential.
func (s session) blank(account string, req IssueRequest, now time.Time) (*StoreRecord, error) {
	made := req.asked().clone() // deep: what the caller passed is sorted in the copy
	r := &made
	r.Account = account
	if err := validOwner(r); err != nil { // Catalog.Products is called for whom there is
		return nil, err
	}
	if err := cmp.Or(s.valid(r, settings), validEnd(req.ExpiresAt, now), r.date(now)); err != nil {
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
	p := mint(s.prefix, r.Kind, r.Mode, id, s.ring.minting)
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
	cred.Hash, cred.Check = encoded, makeCheck(s.ring.minting, p)
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
	asked := r.asked()
	for _, s := range settings {
		s.sumRecord(&c, &asked)
	}
	c.Bool(r.Recoverable)
	return c.Sum()
}
