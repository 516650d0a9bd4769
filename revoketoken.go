package apikey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"iter"
	"net/netip"
	"strings"
	"time"
)

// RevokeToken ends the credential of the token that is presented. Anybody who has a
// leaked token can make it harmless, from anywhere, with no account and no actor.
// RevokeToken works on a suspended key too. If the credential has ended already, it
// returns nil. It takes secret tokens only: a publishable token is public, and a reader
// of a web page must not be able to end it.
//
// Addr, UserAgent and RequestID of the event are those of the context's actor, if there
// is one; this actor needs no ID and no account. Set Addr where people report leaks who
// have not signed in: callers take turns by Addr, so that somebody who presents junk
// holds up nobody else.
//
// The token may stand in text that a person has pasted, up to 8 KiB: with a line break
// or "Bearer " beside it, in a header (also of Basic, which is base64), in an .env file
// that holds a publishable token too, in a quoted mail. A text with two different
// secret tokens is ErrInvalid.
//
// RevokeToken is the last to fail when the program is busy: a token that is in use on
// this node needs neither a read nor a hash to be proven, an ended token needs no hash,
// and all others have turns of their own. If several calls present one token at once,
// only the first does the work, and all get its result. If ctx has no deadline,
// RevokeToken ends after 5 s.
//
// Errors:
//   - ErrInvalidToken: the text has no token, or the token is not valid
//   - ErrKind: the token is publishable
//   - ErrInvalid: two tokens, or the reason cannot be stored
//   - ErrBusy, ErrCorrupt, ErrUnavailable, ErrClosed
func (m *Manager) RevokeToken(ctx context.Context, presented string, reason Reason) error {
	p, err := m.pasted(presented)
	if err := allWrong(reason.valid(), err); err != nil {
		return err
	}
	reason = cmp.Or(reason, ReasonRequested)
	if err := m.tagged(&p); err != nil {
		return err
	}
	// Anybody on the Internet may call this, as often as they like, also to keep a stolen
	// token alive: by filling whatever has a bound, or by hanging up on the call that
	// others have joined. So a caller with time left tries again.
	for {
		_, err := m.exits.shared(ctx, sha256.Sum256([]byte(p.text)), func(ctx context.Context) (struct{}, error) {
			return struct{}{}, mayBeDone(m.endToken(ctx, p, reason)) // an earlier try may have done it
		})
		if _, patient := ctx.Deadline(); !patient || ctx.Err() != nil || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrClosed) {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// maxPaste bounds the text that pasted searches: anybody on the Internet may send one.
const maxPaste = 8 << 10

// pasted finds the one token in a text that a person has copied out of a log, a header,
// a mail or a file. The token may stand there in base64, as in a Basic header. If there
// are a secret and a publishable token, pasted returns the secret one: the other is no
// secret. Verify never searches a text, because a program knows where its token ends.
func (c *core) pasted(text string) (p parsed, err error) {
	if len(text) > maxPaste {
		return parsed{}, ErrInvalidToken
	}
	for _, text := range append(decoded(text, len(c.settings.Prefix)+headLen+bodyLen), text) {
		for q := range c.within(text) {
			switch {
			case p.text == "" || p.kind != Secret && q.kind == Secret:
				p = q
			case q.kind == Secret && q.text != p.text:
				return parsed{}, wrong("token", InvalidSeveral, "the text holds more than one token: pass one at a time")
			}
		}
	}
	if p.text == "" {
		return parsed{}, ErrInvalidToken
	}
	return p, nil
}

// within yields the tokens in a text. It drops every character that no token has: white
// space and invisible characters, which copying adds, and the marks that mail programs
// and formats put into a long line. Then it looks for the prefix: a token has one
// length, and its checksum tells whether it is whole.
func (c *core) within(text string) iter.Seq[parsed] {
	text = strings.Map(func(r rune) rune {
		if r == '_' || isDigitOrLetter(r) {
			return r
		}
		return -1
	}, text)
	length := len(c.settings.Prefix) + headLen + bodyLen
	return func(yield func(parsed) bool) {
		for at := range len(text) - length + 1 {
			if !strings.HasPrefix(text[at:], c.settings.Prefix) {
				continue
			}
			if p, err := c.parse(text[at : at+length]); err == nil && !yield(p) {
				return
			}
		}
	}
}

// decoded returns the parts of a text that are base64, of either alphabet, and have at
// least length bytes.
func decoded(text string, length int) (all []string) {
	outside := func(r rune) bool { return !strings.ContainsRune("+/-_", r) && !isDigitOrLetter(r) }
	for _, run := range strings.FieldsFunc(text, outside) {
		run = strings.NewReplacer("-", "+", "_", "/").Replace(run)
		if plain, err := base64.RawStdEncoding.DecodeString(run); err == nil && len(plain) >= length {
			all = append(all, string(plain))
		}
	}
	return all
}

// isDigitOrLetter reports whether a character is an ASCII digit or letter.
func isDigitOrLetter(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// endToken proves a token in the cheapest way, and ends its credential.
func (m *Manager) endToken(ctx context.Context, p parsed, reason Reason) error {
	if key, account, used := m.usedHere(&p); used {
		if err := m.retireBy(ctx, p, key, account, reason); !errors.Is(err, ErrNotFound) {
			return err
		} // the credential is gone from that key
	}
	r, err := m.lookUp(ctx, p.id)
	if errors.Is(err, ErrNotFound) {
		return ErrInvalidToken
	} else if err != nil {
		return storeError(err)
	}
	cred := r.credential(p.id)
	over := cred != nil && (cred.Ended || r.State() == Revoked) && m.authentic(&r) == nil
	line := hashLine(&r)
	line[0] = "exit"
	if _, err := m.proveRow(withPath(ctx, line), p, &r, over); err != nil {
		return err
	}
	if p.kind != Secret {
		return ErrKind
	}
	err = m.retireBy(ctx, p, r.ID, r.Account, reason)
	if errors.Is(err, ErrNotFound) { // the credential was dropped since
		return ErrInvalidToken
	}
	return err
}

// usedHere finds a token in the caches of this process's Verifiers, which have proven
// it and know its key and account. A token that has ended is not in use, and waits for
// its turn like others: a merchant may have made thousands of those warm.
func (m *Manager) usedHere(p *parsed) (key KeyID, account string, used bool) {
	for _, v := range m.verifiers.all() {
		if k, found := v.cache.get(p); found == hit && k.trouble().damage == nil && !k.unlisted && !k.ended && k.state != Revoked && k.kind == Secret {
			return k.info.ID, k.account, true
		}
	}
	return KeyID{}, "", false
}

// lookUp reads the store for a token that may be junk, in a turn of its own (see
// Manager.cold).
func (m *Manager) lookUp(ctx context.Context, id CredentialID) (StoreRecord, error) {
	from := addrOf(presenterOf(ctx).Addr)
	room, err := m.cold.gate.enter(ctx, m.cold.path(id, from), 1)
	if err != nil {
		return StoreRecord{}, err
	}
	defer room.leave()
	r, err := m.settings.Store.Lookup(ctx, id)
	m.cold.learn(id, err)
	return r, err
}

// addrOf reads an address with or without a port, as net/http has it in RemoteAddr; for
// any other text it returns the zero Addr.
func addrOf(text string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr()
	}
	addr, _ := netip.ParseAddr(text)
	return addr
}

// retireBy ends a credential for somebody who holds its token. The actor is the
// credential itself: it acts for its key's account, and can only end itself, which
// needs no Policy. Who presents the token does not matter.
func (m *Manager) retireBy(ctx context.Context, p parsed, key KeyID, account string, reason Reason) error {
	s := m.own()
	from := presenterOf(ctx)
	holder := Actor{
		ID: "credential:" + p.id.String(), Account: account, holder: true,
		Addr: from.Addr, UserAgent: from.UserAgent, RequestID: from.RequestID,
	}
	j := ofKey(ActionRevokeToken, key).changing(func(_ Actor, stored *StoreRecord) (effect, error) {
		if stored.credential(p.id) == nil {
			return effect{}, ErrNotFound
		}
		return s.lessened(stored, func(r *StoreRecord, now time.Time) (made, bool) {
			m, ended := r.retire(p.id, now, s.skew)
			m.reason = reason
			return m, ended
		}), nil
	})
	j.aim = toLessen
	return s.doAs(ctx, holder, j)
}
