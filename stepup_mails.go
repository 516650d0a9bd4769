package apikey

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// An Addresser knows the address to which messages to an actor go. A [Sender] that
// implements it has at most twenty messages an hour sent to one address, whoever
// asks for them: a person may be known under many IDs, and the five codes an hour of
// each would still flood the one mailbox. A [Factor] of the program's own that sends
// something can implement it too.
type Addresser interface {
	// Address returns the address from the program's own records, never from
	// anything in a request. Upper and lower case count as the same; what else is one
	// mailbox ("anna+shop@" and "anna@") the program brings to one spelling. The empty
	// address is not counted. The address itself is not stored, only a hash of it,
	// keyed by the pepper if there is one. An error fails the challenge as
	// ErrUnavailable.
	Address(ctx context.Context, actorID string) (string, error)
}

const (
	mailsAnHour   = 5  // to an actor, over all accounts
	addressAnHour = 20 // to an address, over all actors
)

// itemMails is the kind of the items that count the messages of the last hour: one
// for an actor over all accounts, since a person in ten accounts has one mailbox,
// and one for an address over all actors. The latter is larger, so that whoever
// registers under somebody's address elsewhere has to spend the codes of four
// actors to silence that person.
const itemMails StoreItemKind = "mails"

// countMail counts the message of a challenge, or refuses it. It returns the items
// to write with the challenge, whose names p keeps for uncountMail.
func (s session) countMail(ctx context.Context, p *put, now time.Time) ([]StoreItem, error) {
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
		case len(sent) >= of.most:
			return nil, sent.tooMany(now)
		}
		sent = append(sent, tally{p.ID, now.Add(time.Hour).UnixMicro()})
		items = append(items, swapMails(it, sent, now))
		p.mails = append(p.mails, of.item)
	}
	return items, nil
}

// uncountMail takes a message back that was never sent.
func (s session) uncountMail(ctx context.Context, p put, now time.Time) ([]StoreItem, error) {
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

func (s session) mailCounters(ctx context.Context, a Actor, factor string) ([]counter, error) {
	var c canon.Writer
	c.Text("actor")
	c.Bool(a.operator) // an operator's name is no merchant's
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

// addressID names an address's item. Few people's addresses are hard to guess: the
// pepper keeps them from whoever reads the database.
func (c *core) addressID(address string) string {
	var text canon.Writer
	text.Text("apikey address v1")
	text.Text(address)
	if !c.ring.has() {
		return itemID("", 0, string(text.Encoded()))
	}
	sum := c.ring.minting.mac(purposeItem, text.Encoded())
	return hex.EncodeToString(sum[:])
}

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

func swapMails(it StoreItem, sent tallies, now time.Time) StoreItem {
	var c canon.Writer
	sent.write(&c)
	it.Version++
	it.Data, it.ExpiresAt = c.Encoded(), micros(now.Add(time.Hour))
	return it
}
