package apikey

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// An Addresser knows the address to which messages to an actor go. If a [Sender]
// implements it, at most twenty messages an hour are sent to one address, whoever asks
// for them: a person may have many IDs, and five codes an hour for each would still
// flood the one mailbox. A [Factor] of the program's own that sends messages can
// implement it too.
type Addresser interface {
	// Address returns the address from the program's own records, never from anything in a
	// request. Upper and lower case count as the same. If other spellings are one mailbox
	// ("anna+shop@" and "anna@"), the program returns one spelling for all. An empty
	// address is not counted. Only a hash of the address is stored, keyed by the pepper if
	// there is one. If Address returns an error, the challenge fails with ErrUnavailable.
	Address(ctx context.Context, actorID string) (string, error)
}

const (
	mailsAnHour   = 5  // to an actor, over all accounts, that were not answered
	addressAnHour = 20 // to an actor over all accounts, or to an address over all actors
)

// itemMails is the kind of the items that count the messages of the last hour: one for
// an actor over all accounts, since a person in ten accounts has one mailbox, and one
// for an address over all actors. An address may get more: somebody who registers
// elsewhere under another person's address has to use up the codes of four actors
// before that person gets none.
const itemMails StoreItemKind = "mails"

// countMail counts the message of a challenge, or refuses it. It returns the items to
// write with the challenge. p.mails keeps their IDs for uncountMail.
func (s session) countMail(ctx context.Context, p *storedChallenge, now time.Time) ([]StoreItem, error) {
	counters, err := s.mailCounters(ctx, p.actor, p.Factor)
	if err != nil {
		return nil, err
	}
	var items []StoreItem
	for _, of := range counters {
		it, sent, err := s.mailsOf(ctx, of.item, now)
		switch {
		case err != nil:
			return nil, err
		case len(sent.unanswered()) >= of.most:
			return nil, sent.unanswered().tooMany(now)
		case len(sent) >= addressAnHour:
			return nil, sent.tooMany(now)
		}
		sent = append(sent, tally{p.ID, now.Add(time.Hour).UnixMicro()})
		items = append(items, swapMails(it, sent, now))
		p.mails = append(p.mails, of.item)
	}
	return items, nil
}

// answeredMail notes that a message was answered. It no longer counts among the five of
// its actor, the first of p.mails: those are for codes that nobody answers. It goes on
// counting among the twenty of the actor and of the address: otherwise somebody who earns
// by each message to their own number would have no bound.
func (s session) answeredMail(ctx context.Context, p storedChallenge, now time.Time) ([]StoreItem, error) {
	if len(p.mails) == 0 { // it sends nothing
		return nil, nil
	}
	it, sent, err := s.mailsOf(ctx, p.mails[0], now)
	for i := range sent {
		if sent[i].id == p.ID {
			sent[i].id = answeredID
		}
	}
	return []StoreItem{swapMails(it, sent, now)}, err
}

// answeredID is the ID in the tally of a message that was answered.
const answeredID = ""

// uncountMail takes a message that was never sent off the counts.
func (s session) uncountMail(ctx context.Context, p storedChallenge, now time.Time) ([]StoreItem, error) {
	var items []StoreItem
	for _, id := range p.mails {
		it, sent, err := s.mailsOf(ctx, id, now)
		if err != nil {
			return nil, err
		}
		sent.drop(p.ID)
		items = append(items, swapMails(it, sent, now))
	}
	return items, nil
}

// counter is one of the items in which a message counts, and its bound.
type counter struct {
	item string
	most int
}

// mailCounters returns the items in which a message of this factor to an actor counts:
// that of the actor, and that of their address if the factor knows it.
func (s session) mailCounters(ctx context.Context, a Actor, factor string) ([]counter, error) {
	var c canon.Writer
	c.Text("actor")
	c.Bool(a.operator) // an operator and a merchant's actor may have one ID
	c.Text(a.ID)
	counters := []counter{{itemID("", 0, string(c.Encoded())), mailsAnHour}}
	f, ok := s.cfg.Factors[factor].(Addresser)
	if !ok {
		return counters, nil
	}
	address, err := bounded(ctx, sendTime, func(ctx context.Context) (string, error) { return f.Address(ctx, a.ID) })
	if err != nil {
		return nil, unavailable(err)
	}
	if address = strings.ToLower(strings.TrimSpace(address)); address != "" {
		counters = append(counters, counter{s.addressID(address), addressAnHour})
	}
	return counters, nil
}

// addressID returns the ID of an address's item. It is a hash under the pepper:
// somebody who reads the database could find an address behind a plain hash by
// guessing.
func (c *core) addressID(address string) string {
	var text canon.Writer
	text.Text("apikey address v1")
	text.Text(address)
	k := c.minting()
	if k == nil {
		return itemID("", 0, string(text.Encoded()))
	}
	sum := k.mac(purposeItem, text.Encoded())
	return hex.EncodeToString(sum[:])
}

// unanswered returns the messages that nobody has answered.
func (l tallies) unanswered() tallies {
	return slices.DeleteFunc(slices.Clone(l), func(t tally) bool { return t.id == answeredID })
}

// mailsOf reads an item that counts messages, without those that no longer count.
func (s session) mailsOf(ctx context.Context, id string, now time.Time) (StoreItem, tallies, error) {
	it, err := s.item(ctx, itemMails, id)
	if err != nil || it.Version == 0 {
		return it, nil, err
	}
	u := canon.NewReader(it.Data)
	sent := readTallies(&u)
	if !u.Complete() { // fail closed, until the item expires
		sent = make(tallies, addressAnHour)
		for i := range sent {
			sent[i].until = it.ExpiresAt.UnixMicro()
		}
	}
	sent.forget(now, time.Hour)
	return it, sent, nil
}

// swapMails returns the item to write.
func swapMails(it StoreItem, sent tallies, now time.Time) StoreItem {
	var c canon.Writer
	sent.write(&c)
	it.Version++
	it.Data, it.ExpiresAt = c.Encoded(), micros(now.Add(time.Hour))
	return it
}

// isSending reports whether another request in this process is sending the message of a
// challenge: a second click must not send a second message.
func (m *Manager) isSending(challenge string) bool {
	_, ok := m.sending.Load(challenge)
	return ok
}

// markSent notes that a challenge's message went out: from now on the same request
// finds this challenge. If the note is not stored, the next such request makes another
// one.
func (s session) markSent(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	err := s.swapping(ctx, func(ctx context.Context, a Actor) (effect, error) {
		p, err := s.challengeOf(ctx, a, id, s.settings.Now())
		if errors.Is(err, ErrChallenge) || err == nil && (p.sent || p.approved()) { // or ended meanwhile
			return effect{}, nil
		}
		if err != nil {
			return effect{}, err
		}
		p.sent = true
		return effect{items: []StoreItem{s.vouch(p.item, p.encode())}}, nil
	})
	if err != nil {
		s.settings.Logger.Warn("apikey: nobody will know that a code was sent; the same request sends another", "error", err)
	}
}

// withdraw deletes a challenge whose code was not sent. Its mail no longer counts,
// unless it may come yet. A challenge that is answered rightly stays: its code was sent,
// whatever the Sender says. If withdraw fails too, the challenge expires by itself.
func (s session) withdraw(ctx context.Context, p storedChallenge, mayCome bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	err := s.swapping(ctx, func(ctx context.Context, a Actor) (effect, error) {
		it, err := s.item(ctx, itemChallenge, p.ID)
		if err != nil || it.Version == 0 {
			return effect{}, err
		}
		data, genuine := s.vouched(it)
		if stored, whole := decodeChallenge(it, data); genuine && whole && stored.approved() {
			return effect{}, nil // the code has arrived, and the same answer may come again
		}
		b, err := s.budgetOf(ctx, a)
		if err != nil {
			return effect{}, err
		}
		b.closed(p.ID)
		now := s.settings.Now()
		items := []StoreItem{it.deleted(), b.swap(now)}
		if !mayCome {
			uncounted, err := s.uncountMail(ctx, p, now)
			if err != nil {
				return effect{}, err
			}
			items = append(items, uncounted...)
		}
		return effect{items: items}, nil
	})
	if err != nil {
		s.settings.Logger.Warn("apikey: a challenge that was not sent could not be withdrawn", "error", err)
	}
}
