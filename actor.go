package apikey

import (
	"context"
	"fmt"
	"strings"
)

// Actor is the person or program that performs a management action. The program
// authenticates people and says here who it is; the library records it. An Actor
// travels in the context. ID, Account and Role have at most 255 bytes each; otherwise
// methods return ErrInvalid.
type Actor struct {
	ID      string `json:"id,omitzero"`      // required: unique within the program
	Account string `json:"account,omitzero"` // the merchant that they act for; required, except for an Operator
	Role    string `json:"role,omitzero"`    // compared by RolePolicy
	// Addr, UserAgent and RequestID are for the log. The first 512 bytes are kept, and
	// bytes that are not UTF-8 are replaced. RevokeToken also gives its callers turns
	// by Addr, with or without a port.
	Addr      string `json:"addr,omitzero"`
	UserAgent string `json:"user_agent,omitzero"`
	RequestID string `json:"request_id,omitzero"`

	// Not exported, so that no decoder of somebody's JSON can set them; see
	// Actor.UnmarshalJSON.
	operator bool
	holder   bool // of a token, ending it
}

// Operator is an actor of the program's own staff, or the program itself. Only an
// Operator can act on every account: give it to nobody whom a merchant employs.
//
// Its Account stays empty, and requests name the account that they are about. An
// Account that was set would not restrict an Operator, so every method except Suspend,
// Revoke and Retire refuses it with ErrInvalid.
func Operator(id string) Actor { return Actor{ID: id, Role: "operator", operator: true} }

// IsOperator reports whether [Operator] made this actor.
func (a Actor) IsOperator() bool { return a.operator }

type actorContext struct{}

// WithActor returns a context whose management calls are made by a.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorContext{}, a)
}

// actorOf finds the actor. An ID and an account are required: an action by
// nobody, or for nobody, is a forgotten WithActor.
func actorOf(ctx context.Context) (Actor, error) {
	a, ok := ctx.Value(actorContext{}).(Actor)
	switch {
	case !ok:
		return Actor{}, ErrNoActor
	case a.ID == "":
		return Actor{}, fmt.Errorf("%w: the one that is there has no ID", ErrNoActor)
	case a.Account == "" && !a.operator:
		return Actor{}, fmt.Errorf("%w: the one that is there has no Account, and only apikey.Operator spans accounts", ErrNoActor)
	}
	if err := allWrong(storableText("actor.id", a.ID, maxID), storableText("actor.account", a.Account, maxID), storableText("actor.role", a.Role, maxID)); err != nil {
		return Actor{}, err
	}
	// These come from a request's headers. They are for the log, and whatever a
	// client writes into them must not stop a revocation.
	a.Addr, a.UserAgent, a.RequestID = loggable(a.Addr), loggable(a.UserAgent), loggable(a.RequestID)
	return a, nil
}

// accountOf is the account that a request without a key is about.
func accountOf(a Actor, named string) string {
	if named != "" || a.operator {
		return named
	}
	return a.Account
}

// presenterOf is where a token comes from. Whoever presents one need not have signed in,
// so an actor without an ID says that too.
func presenterOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorContext{}).(Actor)
	return Actor{Addr: loggable(a.Addr), UserAgent: loggable(a.UserAgent), RequestID: loggable(a.RequestID)}
}

// loggable makes any text storable, and short.
func loggable(s string) string {
	s = strings.ReplaceAll(s[:min(len(s), 512)], "\x00", "\uFFFD")
	return strings.ToValidUTF8(s, "\uFFFD")
}

// another is the actor whom a request names, who must not be the one who makes
// it: a hijacked session must not be able to help itself.
func another(a Actor, account, id string) (Actor, error) {
	target := Actor{ID: id, Account: accountOf(a, account)}
	if err := allWrong(validID("actor", id), storableText("account", target.Account, maxID)); err != nil {
		return Actor{}, err
	}
	if target.ID == a.ID && target.Account == a.Account {
		return Actor{}, fmt.Errorf("%w: nobody does this for themselves: another admin of the account or an operator does", ErrForbidden)
	}
	return target, nil
}

// nobody is what an operator is told who takes something from somebody that has
// nothing: the operator may have forgotten the account, and believe that it is done.
func nobody(a Actor, account, id string) error {
	if a.operator && id != "" && account == "" {
		return wrong("account", InvalidRequired, "no operator %s has anything to take away: for a merchant's person name the Account", quote(id))
	}
	return nil
}
