package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

// ledger stores merchants and their money in the same database as the keys, so that a
// merchant and their first keys are made in one transaction.
type ledger struct{ db *sql.DB }

// owner says whose money a statement is about: the account and mode of the verified key.
// Every method takes an owner, and every statement compares both columns. This is what
// separates accounts, and hides test payments from live keys; the handlers check nothing.
type owner struct {
	account string
	mode    apikey.Mode
}

// refusal is the error for a request that is valid and that the ledger refuses. The code
// is for the merchant's program, and the text for the merchant.
type refusal struct{ code, text string }

func (r refusal) Error() string { return r.code + ": " + r.text }

const notFound = "not_found"

// maxAmount is the largest amount. It is so small that no sum can overflow an int64.
const maxAmount = 1_000_000_000_00

const schema = `
CREATE TABLE IF NOT EXISTS merchants (
	account TEXT PRIMARY KEY,
	name    TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS cards (
	id      TEXT PRIMARY KEY,
	account TEXT NOT NULL,
	mode    TEXT NOT NULL,
	last4   TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS payments (
	id         TEXT PRIMARY KEY,
	account    TEXT NOT NULL,
	mode       TEXT NOT NULL,
	card       TEXT NOT NULL,
	currency   TEXT NOT NULL,
	amount     INTEGER NOT NULL CHECK (amount > 0),
	refunded   INTEGER NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND amount),
	created_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS payments_owner ON payments (account, mode);
CREATE TABLE IF NOT EXISTS refunds (
	id         TEXT PRIMARY KEY,
	payment    TEXT NOT NULL REFERENCES payments,
	amount     INTEGER NOT NULL CHECK (amount > 0),
	created_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS payouts (
	id         TEXT PRIMARY KEY,
	account    TEXT NOT NULL,
	mode       TEXT NOT NULL,
	currency   TEXT NOT NULL,
	amount     INTEGER NOT NULL CHECK (amount > 0),
	created_at TEXT NOT NULL
) STRICT;`

func (l ledger) migrate(ctx context.Context) error {
	_, err := l.db.ExecContext(ctx, schema)
	return err
}

// Amounts are integers in minor units (cents), because a float cannot represent 0.10.

type payment struct {
	ID        string      `json:"id"`
	Mode      apikey.Mode `json:"mode"`
	Status    string      `json:"status"`
	Amount    int64       `json:"amount"`
	Refunded  int64       `json:"refunded"`
	Currency  string      `json:"currency"`
	Card      string      `json:"card,omitempty"`
	CreatedAt string      `json:"created_at"`
}

type refund struct {
	ID        string      `json:"id"`
	Mode      apikey.Mode `json:"mode"`
	Payment   string      `json:"payment"`
	Amount    int64       `json:"amount"`
	Currency  string      `json:"currency"`
	CreatedAt string      `json:"created_at"`
}

type payout struct {
	ID        string      `json:"id"`
	Mode      apikey.Mode `json:"mode"`
	Amount    int64       `json:"amount"`
	Currency  string      `json:"currency"`
	CreatedAt string      `json:"created_at"`
}

type card struct {
	ID    string      `json:"id"`
	Mode  apikey.Mode `json:"mode"`
	Last4 string      `json:"last4"`
}

// checkout makes a payment. This program has no acquirer, so the payment is paid at once.
func (l ledger) checkout(ctx context.Context, o owner, amount int64, currency, cardID string) (payment, error) {
	if cardID != "" {
		var id string
		err := l.db.QueryRowContext(ctx, "SELECT id FROM cards WHERE id = ? AND account = ? AND mode = ?",
			cardID, o.account, o.mode.String()).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return payment{}, refusal{"unknown_card", fmt.Sprintf("There is no such card in mode %s.", o.mode)}
		} else if err != nil {
			return payment{}, err
		}
	}
	p := payment{ID: newID("pay"), Mode: o.mode, Status: "paid", Amount: amount, Currency: currency, Card: cardID, CreatedAt: now()}
	_, err := l.db.ExecContext(ctx, "INSERT INTO payments (id, account, mode, card, currency, amount, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		p.ID, o.account, o.mode.String(), p.Card, p.Currency, p.Amount, p.CreatedAt)
	return p, err
}

// payment returns a payment. A payment of another account, or of the other mode, is not
// found, as if it did not exist.
func (l ledger) payment(ctx context.Context, o owner, id string) (payment, error) {
	return findPayment(ctx, l.db, o, id)
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func findPayment(ctx context.Context, q querier, o owner, id string) (payment, error) {
	p := payment{ID: id, Mode: o.mode, Status: "paid"}
	err := q.QueryRowContext(ctx, "SELECT amount, refunded, currency, card, created_at FROM payments WHERE id = ? AND account = ? AND mode = ?",
		id, o.account, o.mode.String()).Scan(&p.Amount, &p.Refunded, &p.Currency, &p.Card, &p.CreatedAt)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return payment{}, refusal{notFound, fmt.Sprintf("There is no such payment in mode %s.", o.mode)}
	case p.Refunded == p.Amount:
		p.Status = "refunded"
	case p.Refunded > 0:
		p.Status = "partly_refunded"
	}
	return p, err
}

// refund refunds an amount of a payment; amount 0 means all that is left. All refunds of a
// payment together never exceed the payment. The transaction takes the write lock when it
// begins (_txlock), so two refunds at the same time cannot both read the same rest.
func (l ledger) refund(ctx context.Context, o owner, id string, amount int64) (refund, error) {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return refund{}, err
	}
	defer tx.Rollback()
	p, err := findPayment(ctx, tx, o, id)
	if err != nil {
		return refund{}, err
	}
	left := p.Amount - p.Refunded
	if amount == 0 {
		amount = left
	}
	if left == 0 || amount > left {
		return refund{}, refusal{"exceeds_payment", fmt.Sprintf("Of %d %s there are %d left to refund.", p.Amount, p.Currency, left)}
	}
	r := refund{ID: newID("re"), Mode: o.mode, Payment: p.ID, Amount: amount, Currency: p.Currency, CreatedAt: now()}
	if _, err := tx.ExecContext(ctx, "UPDATE payments SET refunded = refunded + ? WHERE id = ?", r.Amount, p.ID); err != nil {
		return refund{}, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO refunds (id, payment, amount, created_at) VALUES (?, ?, ?, ?)",
		r.ID, r.Payment, r.Amount, r.CreatedAt); err != nil {
		return refund{}, err
	}
	return r, tx.Commit()
}

// balance returns the payments less the refunds and payouts, by currency.
func (l ledger) balance(ctx context.Context, o owner) (map[string]int64, error) {
	return balanceOf(ctx, l.db, o)
}

func balanceOf(ctx context.Context, q querier, o owner) (map[string]int64, error) {
	rows, err := q.QueryContext(ctx, `
		SELECT currency, SUM(change) FROM (
			SELECT currency, amount - refunded AS change FROM payments WHERE account = ?1 AND mode = ?2
			UNION ALL
			SELECT currency, -amount FROM payouts WHERE account = ?1 AND mode = ?2
		) GROUP BY currency`, o.account, o.mode.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	balance := map[string]int64{}
	for rows.Next() {
		var currency string
		var amount int64
		if err := rows.Scan(&currency, &amount); err != nil {
			return nil, err
		}
		balance[currency] = amount
	}
	return balance, rows.Err()
}

// payout sends money to the merchant's bank. It refuses more than the balance.
func (l ledger) payout(ctx context.Context, o owner, amount int64, currency string) (payout, error) {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return payout{}, err
	}
	defer tx.Rollback()
	balance, err := balanceOf(ctx, tx, o)
	if err != nil {
		return payout{}, err
	}
	if amount > balance[currency] {
		return payout{}, refusal{"exceeds_balance", fmt.Sprintf("The balance is %d %s.", balance[currency], currency)}
	}
	p := payout{ID: newID("po"), Mode: o.mode, Amount: amount, Currency: currency, CreatedAt: now()}
	if _, err := tx.ExecContext(ctx, "INSERT INTO payouts (id, account, mode, currency, amount, created_at) VALUES (?, ?, ?, ?, ?, ?)",
		p.ID, o.account, o.mode.String(), p.Currency, p.Amount, p.CreatedAt); err != nil {
		return payout{}, err
	}
	return p, tx.Commit()
}

// tokenise stores a card with the last four digits of its number. The number itself is
// neither stored nor logged.
func (l ledger) tokenise(ctx context.Context, o owner, number string) (card, error) {
	c := card{ID: newID("card"), Mode: o.mode, Last4: number[len(number)-4:]}
	_, err := l.db.ExecContext(ctx, "INSERT INTO cards (id, account, mode, last4) VALUES (?, ?, ?, ?)",
		c.ID, o.account, o.mode.String(), c.Last4)
	return c, err
}

func newID(kind string) string { return kind + "_" + rand.Text() }

func now() string { return time.Now().UTC().Format(time.RFC3339) }
