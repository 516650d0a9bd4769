// Package apikey issues, verifies, restricts, rotates, reveals, revokes and audits API
// keys for payment backends. The backend embeds it: there is no server to run, and keys
// live in the backend's own database.
//
// # Set-up
//
// A [Verifier] is the data plane: every API process has one for each mode. A [Manager]
// is the control plane, for the key page and for scripts. The [Settings] are the same for
// all of them. Before Revoke returns, the Verifiers that [Manager.NewVerifier] made refuse
// the key:
//
//	pepper, err := apikey.NewPepper(1, secret) // 32 random bytes, kept outside the database
//	hasher, err := apikey.NewHMACSHA256(pepper)
//	settings := apikey.Settings{
//		Store: store, Prefix: "acme", Catalog: catalog,
//		Peppers: []apikey.Pepper{pepper}, Hashers: []apikey.Hasher{hasher},
//	}
//	m, err := apikey.NewManager(ctx, settings, apikey.ManagerConfig{})
//	v, err := m.NewVerifier(ctx, apikey.VerifierConfig{Mode: apikey.Live})
//
// A process that only verifies, without a Manager, gives the same Settings to
// [NewVerifier]. Settings work without a pepper and with the default hasher too: see
// "Peppers and hashers".
//
// # Issue
//
// Every management call needs an [Actor] in its context: the person or program who
// makes the call:
//
//	ctx = apikey.WithActor(ctx, apikey.Actor{ID: "usr_7", Account: "acc_42", Role: "admin"})
//	issued, err := m.Issue(ctx, apikey.IssueRequest{
//		Mode: apikey.Live, Abilities: []string{"payment:refund"},
//	})
//	fmt.Println(issued.Token.Reveal()) // acme_sk_live_…, shown this once
//
// The store keeps a hash of a secret token, not its text. A [Token] prints redacted
// wherever it is printed; [Token.Reveal] is the only way to its text.
//
// # Verify
//
// A Verifier answers from memory. For a token that it has not seen, it reads the store:
//
//	key, err := v.Verify(ctx, presented, apikey.Request{
//		Require: []apikey.Ability{apikey.Scope("payment:refund")},
//	})
//
// No Verify that starts after Revoke returned succeeds, in the Verifiers that the Manager
// made. Other nodes follow within VerifierConfig.Sync, 1 s by
// default. Package httpauth puts a Verifier in front of HTTP handlers.
//
// # Rotation
//
// A rotation gives a key a new token: now or at a set time, with or without an overlap.
// The key keeps its ID and settings. When a token begins and ends is stored with the
// key and checked at every verification, so no job has to run at that time:
//
//	next, err := m.Rotate(ctx, apikey.RotateRequest{Key: id})              // other tokens end
//	next, err = m.Rotate(ctx, apikey.RotateRequest{Key: id, Overlap: day}) // both work for 24 h
//	err = m.Retire(ctx, apikey.RetireRequest{Key: id, Credential: old})    // the old token ends
//	next, err = m.Rotate(ctx, apikey.RotateRequest{Key: id, At: saturday}) // the switch is later
//	err = m.CancelRotation(ctx, id)                                        // before saturday
//
// A key with RotateMonths becomes due; the library never rotates it by itself. This
// lists the keys to remind somebody of, without revoked, suspended and expired ones:
//
//	due, err := m.List(ctx, apikey.ListRequest{Usable: true, DueWithin: 14 * day})
//
// For the next page set Cursor to due.Next, until Next is empty. A page may have no
// keys and yet not be the last.
//
// If a token is due to end sooner than VerifierConfig.Sync from now, other nodes learn
// of it at their next poll, which may be after that time.
//
// While the store is away, keys that are in memory verify for VerifierConfig.MaxStale,
// which is two minutes. After that Verify returns [ErrUnavailable].
//
// # Step-up
//
// A [StepUp] names the factors that approve an action: [TOTP], [EmailCode], or a
// [Password] or PIN that the program checks itself. Without an approval such an action
// returns a [*ChallengeError]. The error lists the factors that the actor can use now;
// if there is none, it says what to do instead. A page asks for a [Challenge] for the
// request that it is about to make. The right answer gives a [Grant], which approves
// that exact request, once, within two minutes, as long as the key has not changed:
//
//	config.StepUp = apikey.GuardRevealAndRotate("email")
//	config.Factors = map[string]apikey.Factor{"email": code}
//	request := apikey.RevealRequest{Key: id}
//	challenge, err := m.Challenge(ctx, "email", request)      // sends six digits to the actor
//	request.Grant, err = m.Confirm(ctx, challenge.ID, answer) // charged before it is compared
//	shown, err := m.Reveal(ctx, request)                      // opens the key's sealed copy
//	fmt.Println(shown.Token.Reveal())                         // for shown.HideAfter, 30 s
//
// Challenges and grants are in the store, so any node accepts the answer. These limits
// hold:
//
//   - While a challenge waits, the same request with the same factor returns that
//     challenge and sends nothing. [Manager.Resend] sends a new code.
//   - An actor is sent at most five codes an hour that they do not answer rightly, and
//     twenty in all, over all accounts.
//   - If the action fails after a right answer, because a KEK was away, say, the same
//     answer gives another grant for two minutes. An [ApprovalError] says whether a
//     grant was used or has expired.
//   - Five wrong answers end a challenge. Ten in an hour make the actor wait. A hundred
//     lock the actor's guarded actions until somebody else calls [Manager.LiftLock].
//     Each wrong answer is a [*WrongAnswerError], which says how many are left.
//   - A lift gives ten more guesses. After three lifts in thirty days only an
//     [Operator] can lift a lock.
//   - Suspend, Retire, CancelRotation, and Revoke with ReasonCompromised are never
//     guarded.
//
// Codes are read as people type them: see [Digits]. A person's first authenticator is
// approved by another factor. One that replaces it is approved by the authenticator
// itself, or by another admin ([Manager.AllowEnrollment]): neither a hijacked session
// nor a stolen mailbox can set up its own.
//
// A token is shown once, unless its key was issued Recoverable: then a copy is sealed
// under a [KEK], for [Manager.Reveal]. TOTP seeds are sealed likewise. [Manager.Reseal]
// replaces a KEK. Verification never calls one.
//
// # Abilities
//
// A key holds scopes ("payment:refund", "payment:*") and levels of products
// ("balance=read"; write includes read). A [Catalog] lists all abilities that a key may
// be given. A key can be restricted to networks and web origins, and can have an
// expiry. Publishable keys, which are in every visitor's browser, hold only abilities
// that the catalog marks publishable.
//
// # Events
//
// Every change of a key is an [Event] in that key's chain, committed together with the
// change. [Manager.Events] shows the events, of one key, actor, action or time if you
// like, and marks those that it cannot verify (Event.Doubt). [Manager.VerifyEvents] finds
// the first event of a chain that was changed, dropped or put in.
//
// # JSON
//
// What a Manager or a Verifier returns has a JSON form, to be stored or sent to the
// merchant: [Info], [KeyList], [Issued], [Event], [EventList], [ChainReport], [Challenge]
// and the others. These rules hold:
//
//   - A member is called like its field, in snake case: ExpiresAt is expires_at. The page
//     of a list is data, and a duration has its unit: Revealed.HideAfter is
//     hide_after_seconds.
//   - Times are RFC 3339, in UTC. A time, an ID or another value that is not set is
//     absent. The name, flags, counts and lists of a key are always there, and no list is
//     null. Credentials are absent from the Info of a verification.
//   - The token of a publishable key is written whole. A secret token is redacted: to
//     show it once, put Token.Reveal into the answer yourself.
//   - A damaged key in a list ([KeyList]) is its ID alone. What is wrong with it is for
//     operators, and only in the [CorruptError] itself.
//   - json.Unmarshal reads back what was written, with four exceptions. A credential's
//     pepper slot and the details of a CorruptError are not written. An [Actor] says "operator": true, but
//     reading never makes an Operator. A secret token was redacted and is read as none.
//   - An ability is its text. Scopes and product levels are read by json.Unmarshal, forms
//     of the program's own by [Catalog.ParseInfo].
//   - Unknown members are ignored. The option DisallowUnknownFields of a json.Decoder is
//     not passed on to credentials, actors and Revealed.
//
// The body of a request that makes a key reads into [IssueRequest], and that of a PATCH
// request into [UpdateRequest]; see [Field]. The other requests have no JSON. JSON has the
// key's state and its times. What follows from them at an instant is [Info.Status], which
// the program adds:
//
//	json.NewEncoder(w).Encode(struct {
//		apikey.Info
//		Status apikey.Status `json:"status"`
//	}{info, info.Status(time.Now(), 30*day)})
//
// # Peppers and hashers
//
// A [Pepper] is a secret of the program, kept outside its database. It makes a tag in
// each token and a MAC beside each record. With a pepper, forged tokens are refused
// before any read, a record that was changed in the database is refused as
// [ErrCorrupt], a stolen database cannot be tried against guesses, and a restarted
// process knows a token after one row read. Use one in production.
//
// The default Hasher is [Argon2id]. Without a pepper each first verification of a token
// waits for it: 17 ms of one processor and 19.9 MB a run (BenchmarkHasher: 19 MiB, 2
// passes, one core of a 2026 cloud machine; a whole first verification takes 22 ms
// there, and 83 ms on the slower machine of docs/figures.md). A token's secret has 196
// random bits, which no slow hash makes harder to guess. So with a pepper [HMACSHA256]
// loses nothing, and takes 0.65 µs on the first of these machines.
//
// [ParsePeppers] reads peppers from the text of a file, and [ReadSecretFile] the file.
//
// Choose Argon2id if an auditor asks for it or if there is no pepper. With a pepper,
// Argon2id runs when a key is issued, and once for a key that is older than the pepper
// or whose parameters were raised since.
//
// # Errors
//
// Compare errors with errors.Is. Verify returns these, with the status of an HTTP
// answer:
//
//	401  ErrInvalidToken     malformed, unknown, forged or wrong
//	401  ErrRevoked, ErrSuspended, ErrCredentialEnded, ErrNotYetValid, ErrExpired
//	403  ErrKind, ErrMode, ErrStanding, ErrAddr, ErrOrigin, ErrAbility
//	503  ErrBusy, ErrUnavailable (also ErrClosed, which wraps it)
//	500  ErrCorrupt
//
// Those of 401 wrap [ErrUnauthenticated], those of 403 [ErrDenied]. Of these two kinds,
// a caller who does not hold the secret never gets another error than ErrInvalidToken.
//
// An error of management becomes the answer of a key page by this table.
// httpauth.Refused is the table as a function: it gives status, code and texts that may
// be shown. The text of an error may not: it is for developers and logs, may name
// settings of the program, and quotes what a store or a key service has answered. A
// program that writes its own answers compares in the order of the table. Any Manager
// method may return those with a *: where the comment of a method says "those of the
// table in the package documentation", it means these. Those with a g come from actions
// that [StepUp] guards:
//
//	401 *  ErrNoActor              nobody is signed in, or the program forgot WithActor
//	404 *  ErrNotFound             no such key, or it is another account's
//	403 g  ErrGrant                the grant does not fit: put a new challenge
//	403 g  ErrStepUpRequired       read the *ChallengeError
//	403 *  ErrForbidden            Policy refuses the actor this action
//	403    ErrStanding             Standing refuses the account, or Products an ability
//	403    ErrWrongAnswer          read the *WrongAnswerError
//	429    ErrTooManyAttempts      Retry-After: AttemptsError.Wait
//	409 g  ErrLocked               somebody else calls LiftLock
//	410    ErrChallenge            the challenge cannot be answered any more
//	409    ErrNoRotation           there is no rotation to cancel
//	400 *  ErrInvalid              InvalidFields lists all wrong fields
//	412    *VersionError           IfVersion is not the version of the key
//	503 *  ErrConflict             otherwise: sixteen attempts lost against others
//	409    ErrLimit                read the *LimitError; 429 if it has a Wait
//	409    ErrAlreadyIssued, ErrIdempotencyMismatch
//	409    ErrRotationPending, ErrOverlapRunning
//	409    ErrNotEnrolled, ErrNotRecoverable
//	409    ErrRevoked, ErrSuspended, ErrExpired: they are about the key, not the caller
//	503    ErrBusy                 try again
//	503 *  ErrUnavailable          the store, a KEK, a mail server (also ErrClosed)
//	503 *  ErrNotDone              likewise, and it is certain that nothing was done
//	500 *  ErrCorrupt              the stored record is damaged
//	500    any other error
//
// All wrong fields of a request are in one error, which has an [InvalidError] for each:
// a form shows them all at once. What a field cannot show, such as the state of the key
// or a limit of the account, is returned once every field is right.
//
// [Manager.RevokeToken] needs no actor; it also returns ErrInvalidToken (400) and
// ErrKind (403). NewManager and NewVerifier return ErrInvalid, ErrUnavailable and
// ErrPepper; the other constructors return ErrInvalid.
//
// # Packages
//
//   - memstore: the reference Store, for unit tests
//   - sqlstore: keys in SQLite, PostgreSQL or MariaDB, through database/sql;
//     [Manager.Tx] works inside a transaction of the program
//   - pgnotify, a module of its own: a [Notifier] that tells other nodes at once, on
//     PostgreSQL
//   - apikeytest: a Manager and Verifiers in memory for unit tests, with a clock, a
//     mailbox and authenticator codes
//   - storetest: the contract of [Store] as a test suite that any store can run
//   - httpauth: the HTTP middleware
//   - examples: programs that run
//
// Names that begin with Store, and ErrCursorLost, are for authors of a store. Everybody
// else can skip them.
package apikey
