// Package apikey issues, verifies, restricts, rotates, reveals, revokes and
// audits API keys for payment backends. It is embedded in the backend: there is
// no server to run, and keys live in the backend's own database.
//
// # Set-up
//
// A [Verifier] is the data plane: every API process has one for each mode. A
// [Manager] is the control plane, for the key page and for scripts. The Manager
// is told of the Verifiers in its own process, so that a revocation reaches them
// before it returns:
//
//	pepper, err := apikey.NewPepper(1, secret) // 32 random bytes, kept outside the database
//	hasher, err := apikey.NewHMACSHA256(pepper)
//	v, err := apikey.NewVerifier(ctx, apikey.VerifierConfig{
//		Store: store, Prefix: "acme", Mode: apikey.Live,
//		Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher},
//	})
//	m, err := apikey.NewManager(ctx, apikey.ManagerConfig{
//		Store: store, Prefix: "acme", Catalog: catalog, Local: []*apikey.Verifier{v},
//		Peppers: []apikey.Pepper{pepper}, Hasher: hasher,
//	})
//
// Both work without a pepper and with the default hasher too; see below.
//
// # Issue
//
// Every management call is made by an [Actor], who is in the context:
//
//	ctx = apikey.WithActor(ctx, apikey.Actor{ID: "usr_7", Account: "acc_42", Role: "admin"})
//	issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:refund"}})
//	fmt.Println(issued.Token.Reveal()) // acme_sk_live_…, shown this once
//
// What is kept of a secret token is a hash. A [Token] prints redacted wherever
// it is printed; Reveal is the only way to its text.
//
// # Verify
//
// A Verifier answers from memory, and from the store for tokens that it has not
// seen:
//
//	key, err := v.Verify(ctx, presented, apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}})
//
// No Verify that starts after Revoke returned succeeds on that node, if the
// Verifier is in ManagerConfig.Local; other nodes follow within
// VerifierConfig.Sync, which is a second. Package httpauth puts a Verifier in
// front of HTTP handlers.
//
// # Rotation
//
// A key keeps its ID and settings and gets a new token: now, at a time, with or
// without an overlap. Windows are data that every verification judges, so
// nothing has to run when a switch comes:
//
//	next, err := m.Rotate(ctx, apikey.RotateRequest{Key: id})                         // every other token ends
//	next, err = m.Rotate(ctx, apikey.RotateRequest{Key: id, Overlap: 24 * time.Hour}) // both work for a day
//	err = m.Retire(ctx, apikey.RetireRequest{Key: id, Credential: old})               // nobody uses it any more
//	next, err = m.Rotate(ctx, apikey.RotateRequest{Key: id, At: saturday})            // from then on, the new one
//	err = m.CancelRotation(ctx, id)                // before then
//
// Keys with RotateMonths become due, and nothing is rotated behind anybody's back.
// Whom to remind, without keys that are revoked, suspended or expired:
//
//	now := time.Now()
//	due, err := m.List(ctx, apikey.ListRequest{DueBefore: now, State: apikey.Active, NotExpiredAt: now})
//
// Go on with Cursor: due.Next until Next is empty, also after a page without keys.
//
// If a token is due to end sooner than VerifierConfig.Sync from now, other nodes
// hear of it when they next ask, which may be after that time.
//
// While the store is away, keys that are in memory verify for
// VerifierConfig.MaxStale, which is two minutes; then the answer is
// [ErrUnavailable].
//
// # Step-up
//
// A [StepUp] names the factors that approve an action: [TOTP], [EmailCode], or a
// [Password] or PIN that the program checks itself. Without an approval such an
// action is a [*ChallengeError], which lists those that the actor can use now, and
// says the way out where they can use none. A page puts a [Challenge] for
// the request that it is about to make; the right answer is a [Grant], for that
// very request, once, within two minutes, as long as the key has not changed:
//
//	config.StepUp, config.Factors = apikey.GuardRevealAndRotate("email"), map[string]apikey.Factor{"email": code}
//	request := apikey.RevealRequest{Key: id}
//	challenge, err := m.Challenge(ctx, "email", request)      // sends six digits to the actor of ctx
//	request.Grant, err = m.Confirm(ctx, challenge.ID, answer) // charged before it is compared
//	shown, err := m.Reveal(ctx, request)                      // opens the sealed copy of a Recoverable key
//	fmt.Println(shown.Token.Reveal())                         // for shown.HideAfter, 30 s
//
// Everything is in the store, so any node takes the answer. The same request by the
// same factor, while a challenge for it waits, is that challenge and sends nothing;
// [Manager.Resend] sends a new code. Five codes an hour are sent to an actor, over all
// accounts. Five wrong answers end a challenge, ten in an hour make the actor wait, and
// a hundred lock their guarded actions until somebody else calls [Manager.LiftLock];
// each is a [*WrongAnswerError], which says how many are left. A lift gives ten more
// guesses, and after three lifts in thirty days only an [Operator] lifts. Suspend,
// Retire, CancelRotation and revoking as compromised are never guarded.
//
// Codes are read as people type them: see [Digits]. The first authenticator of a
// person is approved by another factor. One that replaces it is approved by the
// authenticator itself, or by another admin ([Manager.AllowEnrollment]): neither a
// hijacked session nor a stolen mailbox brings its own.
//
// Tokens are shown once, unless their key was issued Recoverable: then a copy is
// sealed under a [KEK], for [Manager.Reveal]. TOTP seeds are sealed likewise. A
// KEK is replaced with [Manager.Reseal]; verification never calls one.
//
// # Abilities
//
// A key holds scopes ("payment:refund", "payment:*") and levels of products
// ("balance=read"; write includes read). A [Catalog] lists those that there
// are. A key may be bound to networks and web origins and to an expiry.
// Publishable keys, which are in every visitor's browser, hold only what the
// catalog marks publishable.
//
// # Events
//
// Every change of a key is an [Event] in that key's chain, committed together
// with the change. [Manager.Events] shows them, and marks those that it cannot
// vouch for (Event.Doubt); [Manager.VerifyEvents] finds the first of a chain that
// was changed, dropped or put in.
//
// # Peppers and hashers
//
// A [Pepper] is a secret of the program outside its database. From it come a tag
// in each token and a MAC beside each record. With one, forged
// tokens are refused before any read, a record that was changed in the database
// is refused as [ErrCorrupt], a stolen database cannot be tried against guesses,
// and a restarted process is warm after one row read. Use one in production.
//
// The default Hasher is [Argon2id], which each first verification without a
// pepper waits for: 17 ms of one processor and 19.9 MB a run (BenchmarkHasher: 19
// MiB, 2 passes, one core of a 2026 cloud machine; a whole first verification:
// 22 ms there, 83 ms on the slower machine of docs/figures.md). A token's secret has
// 196 random bits, which no slow hash makes harder to guess, so with a pepper
// [HMACSHA256] loses nothing and takes 0.65 µs on the first of these machines. Choose Argon2id if an auditor asks for it or if there is
// no pepper; with a pepper it runs when a key is issued, and once for a key that
// is older than the pepper or whose parameters were raised since.
//
// # Errors
//
// Errors are told apart with errors.Is. Those of Verify wrap
// [ErrUnauthenticated] (401) or [ErrDenied] (403), or say that we failed:
// [ErrBusy], [ErrUnavailable] (503), [ErrCorrupt] (500). Whoever does not hold
// the secret never gets anything of the first two but [ErrInvalidToken].
//
// A key page that turns the errors of management into statuses asks in this
// order:
//
//	404  ErrNotFound
//	403  ErrStepUpRequired (read the *ChallengeError; of ErrGrant: put a new challenge), ErrForbidden, ErrStanding, ErrWrongAnswer
//	429  ErrTooManyAttempts (Retry-After: AttemptsError.Wait); 423 ErrLocked; 410 ErrChallenge
//	400  ErrInvalid
//	409  ErrConflict, ErrLimit, ErrAlreadyIssued, ErrIdempotencyMismatch, ErrRotationPending,
//	     ErrOverlapRunning, ErrNotEnrolled, ErrNotRecoverable, ErrRevoked, ErrSuspended, ErrExpired:
//	     here these are about the key, not about who asks
//	503  ErrBusy, ErrUnavailable
//	500  ErrCorrupt, ErrNoActor and anything else
//	401  ErrInvalidToken; 403 ErrKind: RevokeToken alone
//
// # Packages
//
// Package memstore is the reference Store, for unit tests; sqlstore keeps keys
// in SQLite, PostgreSQL or MariaDB through database/sql; storetest is the contract of [Store] as a
// suite that any store can run; httpauth is the middleware; examples has
// programs that run. pgnotify, a module of its own, is a [Notifier] that tells
// other nodes at once on PostgreSQL; [Manager.Tx] works inside a transaction of
// the program.
//
// Names that begin with Store, and ErrCursorLost, are for authors of a store.
// Everybody else can skip them.
package apikey
