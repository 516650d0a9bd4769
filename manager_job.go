package apikey

import (
	"context"
	"slices"
	"time"
)

// job is what one management call wants done. ofKey and the functions beside it make a
// job that is little more than its subject; a job with more fields names its subject.
type job struct {
	action  Action
	subject subject
	key     KeyID  // aKey
	account string // anAccount, anyAccount; empty: the actor's own
	factor  string // theActor: which of their factors, if the job is about one
	// What else is known of a key that is to be made, or of the keys that are listed.
	mode Mode
	kind Kind
	name string

	aim       aim
	staff     bool   // for Operators alone, whatever Policy says
	stands    bool   // asks Standing
	widens    bool   // the key may do more afterwards, whatever the plan shows: asks Standing and Products
	unlogged  bool   // writes items without an event; work itself has to find what an earlier attempt wrote
	ifVersion uint64 // not 0: refused unless the key is at this version

	// asks, if set, makes StepUp apply to this job. The job is approved by grant, or by
	// pass, which returns a stored item that replaces a grant (an allowed enrolment).
	asks  *approval
	grant Grant
	pass  func(context.Context, Actor) (StoreItem, error)
	// plan, if not nil, returns the key as the job would change it, or the keys that it
	// would make: checked, and in canonical form. Policy is shown the plan. If plan
	// or refuses (which may be nil) returns an error, the job ends before anything has
	// to be approved: nobody answers a challenge for a job that is refused afterwards.
	plan    func(ctx context.Context, s session, a Actor, r *StoreRecord, now time.Time) ([]planned, error)
	refuses func(context.Context, session, Actor, *StoreRecord) error
	// also, if not nil, returns a further action that the job is, as the record shows; "":
	// none. Policy is asked about that one too.
	also func(*StoreRecord, time.Time) Action
	// wrong, if not nil, returns all wrong fields of the request but the account. It is
	// asked about a request that names no account, for which nothing is planned.
	wrong func(s session, now time.Time) error
	// modes, if not nil, returns the modes of the keys that the job makes; nil: mode, or
	// the mode of the key.
	modes func() []Mode

	// work returns what is to be written. r is a private copy, nil if the job is about
	// no key. work may run several times, each time on what is stored then.
	work func(a Actor, r *StoreRecord) (effect, error)
}

// subject is what a job is about.
type subject uint8

const (
	// aKey: one key that exists. The zero key does not.
	aKey subject = iota
	// anAccount: an account, or a key that is to be made in it. An Operator names it.
	anAccount
	// anyAccount: likewise, but an Operator may leave it empty: every account.
	anyAccount
	// theStore: everything in the store, of all accounts.
	theStore
	// theActor: the actor alone. No Policy is asked, and no account is needed.
	theActor
)

func ofKey(act Action, id KeyID) job { return job{action: act, subject: aKey, key: id} }

func ofAccount(act Action, account string) job {
	return job{action: act, subject: anAccount, account: account}
}

func ofAnyAccount(act Action, account string) job {
	return job{action: act, subject: anyAccount, account: account}
}

func ofStore(act Action) job { return job{action: act, subject: theStore, staff: true} }

func ofActor(act Action) job { return job{action: act, subject: theActor} }

// aim is how a job treats the store and the record.
type aim uint8

const (
	// toChange: what work returns is written. After a conflict work runs again, on the
	// newer record, maxAttempts times at most.
	toChange aim = iota
	// toLessen: likewise, but the job only takes power away. It runs again until it
	// commits or its time ends, after a conflict at once: no job that adds power may be
	// faster each time. The record does not have to be believed.
	toLessen
	// toRead: nothing is written.
	toRead
	// toInspect: likewise, and the record does not have to be believed.
	toInspect
)

// in sets what is known of the keys that are listed.
func (j job) in(mode Mode, kind Kind) job {
	j.mode, j.kind = mode, kind
	return j
}

// reading makes a job that only reads, or that writes by jobs of its own.
func (j job) reading(work func(Actor, *StoreRecord) error) job {
	j.aim = toRead
	j.work = func(a Actor, r *StoreRecord) (effect, error) { return effect{}, work(a, r) }
	return j
}

// changing makes a job that writes.
func (j job) changing(work func(Actor, *StoreRecord) (effect, error)) job {
	j.aim, j.work = toChange, work
	return j
}

// lessening makes a job that takes power away by an edit. Its plan refuses nothing:
// such a job needs the Policy's permission and nothing else.
func (j job) lessening(edit lessening) job {
	j.aim = toLessen
	j.plan = func(_ context.Context, _ session, _ Actor, stored *StoreRecord, now time.Time) ([]planned, error) {
		r := stored.clone()
		if stored.State() != Revoked {
			edit(&r, now)
		}
		return []planned{{stored, &r}}, nil
	}
	return j
}

// idle reports whether a job that takes power away has nothing to do. Then nobody has to
// approve it: a Revoke whose answer was lost is repeated without a second code.
func (j job) idle(a Actor, r *StoreRecord) bool {
	if j.aim != toLessen || j.asks == nil { // asks nil: no approval is needed at all
		return false
	}
	e, err := j.work(a, r) // an edit of a copy
	return err == nil && e.nothing()
}

// lessening edits a record, and reports whether there was anything to do.
type lessening func(*StoreRecord, time.Time) (made, bool)

// planned is a key as it is (nil: there is none yet), and as a job would make it.
type planned struct{ is, would *StoreRecord }

// effect holds what a job's work asks to be written; the zero effect writes nothing.
type effect struct {
	made  []made
	items []StoreItem
	note  *Event // an event outside every chain
	also  Action // a further action that the work turned out to be: Policy is asked about it
	// widens: some request passes afterwards that was refused before.
	widens bool
}

func (e effect) nothing() bool { return len(e.made) == 0 && len(e.items) == 0 && e.note == nil }

// made is one record to be written, and what its event says.
type made struct {
	record     *StoreRecord
	credential CredentialID
	changed    []string
	reason     Reason
	// unsigned keeps a MAC that is wrong: a new one would make a record look sound that
	// somebody has changed in the database.
	unsigned bool
}

// beyond returns the further actions that an update turned out to be.
func (e effect) beyond() (acts []Action) {
	if e.also == ActionResume {
		acts = append(acts, ActionResume)
	}
	if e.widens {
		acts = append(acts, ActionWiden)
	}
	return acts
}

// modesOf returns the modes that StepUp is asked about.
func (j job) modesOf(about Info) []Mode {
	if j.modes != nil {
		return j.modes()
	}
	return []Mode{about.Mode}
}

// left returns a plan without the keys of modes in which the job makes none.
func (j job) left(plan []planned) []planned {
	if j.modes == nil {
		return plan
	}
	modes := j.modes()
	return slices.DeleteFunc(plan, func(p planned) bool { return p.is == nil && !slices.Contains(modes, p.would.Mode) })
}

// always reports whether the job is done also for an Operator who has an Account. Every
// other job refuses that: somebody believes that the Account bounds the Operator. The
// exceptions are jobs about the actor alone, and jobs that end a key or its token,
// which nothing may hold up.
func (j job) always() bool {
	return j.subject == theActor || j.subject == aKey && (j.action == ActionSuspend || j.action == ActionRevoke || j.action == ActionRetire)
}

// note is an event outside every chain; about says what it is about, see
// Event.Changed.
func (s session) note(a Actor, action Action, account string, about ...string) *Event {
	slices.Sort(about)
	return &Event{ID: newEventID(), Action: action, Outcome: OutcomeDone, Account: account, Actor: a, Changed: about}
}
