package billing

import (
	"fmt"

	"github.com/penstock-io/penstock/domain"
)

// Account decides over one customer's account.
//
// Its rules, by the names that a refusal carries: account-suspended, already-suspended, not-suspended,
// unknown-charge, currency-mismatch, charge-disputed, refund-exceeds-captured, total-too-large. Only the last and
// currency-mismatch can meet a fact that Stripe reported; both then say that the fact contradicts what it told before.
var Account = domain.Decider[State]{
	Category: "billing",
	Initial:  func() State { return State{} },
	Decide:   decide,
	Evolve:   evolve,
	Snapshot: domain.JSONSnapshot[State](1),
}

// State is an account as its events left it. It is a value: no function here changes one that it was given.
type State struct {
	suspended bool
	totals    table[Totals]  // by currency
	charges   table[charge]  // by Stripe's charge id
	disputes  table[dispute] // by Stripe's dispute id
}

// Totals sums up an account in one currency, in minor units.
type Totals struct {
	Credit   int64 // granted
	Captured int64
	Refunded int64 // as reported by Stripe
	Pending  int64 // requested as refunds and not yet reported
	Disputed int64 // in disputes open or lost
}

// Balance is what stands to the customer's account. It is negative when a dispute takes more than was left.
func (t Totals) Balance() int64 { return t.Credit + t.Captured - t.Refunded - t.Disputed }

// Totals returns the sums in one currency.
func (s State) Totals(currency string) Totals {
	t, _ := s.totals.get(currency)
	return t
}

// Suspended reports whether the account takes no credit.
func (s State) Suspended() bool { return s.suspended }

// charge always has refunded + reserved ≤ captured. One that is known by a dispute alone has captured 0.
type charge struct {
	currency string
	captured int64
	refunded int64
	reserved int64 // by refund requests that Stripe hasn't answered
	disputes int   // open or lost
}

type dispute struct {
	charge   string
	amount   int64
	currency string
	status   string // Open, Won or Lost
}

// withheld is what a dispute keeps off the balance.
func (d dispute) withheld() int64 {
	if d.status == Won {
		return 0
	}
	return d.amount
}

// decision collects the events of one command, with the state as it is after them.
type decision struct {
	State
	events []domain.Event
}

func (d *decision) record(payload any) {
	e := domain.Fact(payload)
	d.events = append(d.events, e)
	d.State = evolve(d.State, e)
}

func decide(s State, c domain.Command) ([]domain.Event, error) {
	d := &decision{State: s}
	var err error
	switch c := c.Payload.(type) {
	case GrantCredit:
		err = d.grant(c)
	case RequestRefund:
		err = d.requestRefund(c)
	case SuspendAccount:
		if s.suspended {
			return nil, domain.Reject("already-suspended", "the account of %s is suspended", c.Customer)
		}
		d.record(AccountSuspended(c))
	case ReopenAccount:
		if !s.suspended {
			return nil, domain.Reject("not-suspended", "the account of %s is open", c.Customer)
		}
		d.record(AccountReopened(c))
	case RecordCharge:
		err = d.capture(c)
	case RecordRefund:
		err = d.refund(c)
	case RecordDispute:
		err = d.dispute(c)
	case CloseDispute:
		err = d.closeDispute(c)
	default:
		err = fmt.Errorf("an account takes no %T", c)
	}
	if err != nil {
		return nil, err
	}
	return d.events, nil
}

func (d *decision) grant(c GrantCredit) error {
	if d.suspended {
		return domain.Reject("account-suspended", "the account of %s is suspended and takes no credit", c.Customer)
	}
	t := d.Totals(c.Currency)
	if err := checkTotal("credit", t.Credit, c.Amount, c.Currency); err != nil {
		return err
	}
	d.record(CreditGranted{Customer: c.Customer, Amount: c.Amount, Currency: c.Currency, Reason: c.Reason,
		Balance: t.Balance() + c.Amount})
	return nil
}

func (d *decision) requestRefund(c RequestRefund) error {
	ch, _ := d.charges.get(c.Charge)
	left := ch.captured - ch.refunded - ch.reserved
	switch {
	case ch.captured == 0:
		return domain.Reject("unknown-charge", "%s has no captured charge %s", c.Customer, c.Charge)
	case ch.currency != c.Currency:
		return domain.Reject("currency-mismatch", "charge %s is in %s, not %s", c.Charge, ch.currency, c.Currency)
	case ch.disputes > 0:
		return domain.Reject("charge-disputed", "charge %s is disputed; the bank decides about its money", c.Charge)
	case c.Amount > left:
		return domain.Reject("refund-exceeds-captured", "charge %s has %d left to refund: captured %d, refunded %d, pending %d",
			c.Charge, left, ch.captured, ch.refunded, ch.reserved)
	}
	d.record(RefundRequested{Customer: c.Customer, Charge: c.Charge, Amount: c.Amount, Pending: ch.reserved + c.Amount,
		Currency: c.Currency, Balance: d.Totals(c.Currency).Balance()})
	return nil
}

func (d *decision) capture(c RecordCharge) error {
	ch, _ := d.charges.get(c.Charge)
	if ch.captured > 0 && ch.currency != c.Currency {
		return domain.Reject("currency-mismatch", "charge %s is in %s, not %s", c.Charge, ch.currency, c.Currency)
	}
	amount := c.Captured - ch.captured
	if amount <= 0 {
		return nil
	}
	t := d.Totals(c.Currency)
	if err := checkTotal("captured", t.Captured, amount, c.Currency); err != nil {
		return err
	}
	d.record(ChargeCaptured{Customer: c.Customer, Charge: c.Charge, Amount: amount, Captured: c.Captured,
		Currency: c.Currency, Balance: t.Balance() + amount})
	return nil
}

func (d *decision) refund(c RecordRefund) error {
	err := d.capture(RecordCharge{Customer: c.Customer, Charge: c.Charge, Captured: c.Captured, Currency: c.Currency})
	if err != nil {
		return err
	}
	ch, _ := d.charges.get(c.Charge)
	amount := c.Refunded - ch.refunded
	if amount <= 0 {
		return nil
	}
	d.record(RefundCompleted{Customer: c.Customer, Charge: c.Charge, Amount: amount, Refunded: c.Refunded,
		Released: min(amount, ch.reserved), Currency: c.Currency, Balance: d.Totals(c.Currency).Balance() - amount})
	return nil
}

// dispute doesn't compare with the charge: it may be reported first, and Stripe may dispute it in another currency.
func (d *decision) dispute(c RecordDispute) error {
	if _, known := d.disputes.get(c.Dispute); known {
		return nil
	}
	t := d.Totals(c.Currency)
	if err := checkTotal("disputed", t.Disputed, c.Amount, c.Currency); err != nil {
		return err
	}
	d.record(ChargeDisputed{Customer: c.Customer, Dispute: c.Dispute, Charge: c.Charge, Amount: c.Amount,
		Currency: c.Currency, Balance: t.Balance() - c.Amount})
	return nil
}

// closeDispute goes by the dispute as it was recorded; the command's own amount counts when its end is all we hear.
func (d *decision) closeDispute(c CloseDispute) error {
	err := d.dispute(RecordDispute{Customer: c.Customer, Dispute: c.Dispute, Charge: c.Charge, Amount: c.Amount,
		Currency: c.Currency})
	if err != nil {
		return err
	}
	was, _ := d.disputes.get(c.Dispute)
	if was.status == c.Status {
		return nil
	}
	now := was
	now.status = c.Status
	returned := was.withheld() - now.withheld()
	t := d.Totals(was.currency)
	if err := checkTotal("disputed", t.Disputed, -returned, was.currency); err != nil {
		return err
	}
	d.record(DisputeClosed{Customer: c.Customer, Dispute: c.Dispute, Charge: was.charge, Status: c.Status, Amount: was.amount,
		Returned: returned, Currency: was.currency, Balance: t.Balance() + returned})
	return nil
}

// checkTotal refuses what would take a sum beyond MaxTotal. Sums are at most MaxTotal and amounts at most MaxAmount,
// so that neither this addition nor a balance can overflow.
func checkTotal(name string, total, amount int64, currency string) error {
	if total+amount > MaxTotal {
		return domain.Reject("total-too-large", "%s in %s would be %d, above %d", name, currency, total+amount, int64(MaxTotal))
	}
	return nil
}

func evolve(s State, e domain.Event) State {
	switch e := e.Payload.(type) {
	case CreditGranted:
		s = s.add(e.Currency, Totals{Credit: e.Amount})
	case ChargeCaptured:
		c, _ := s.charges.get(e.Charge)
		c.currency, c.captured = e.Currency, c.captured+e.Amount
		s.charges = s.charges.with(e.Charge, c)
		s = s.add(e.Currency, Totals{Captured: e.Amount})
	case RefundRequested:
		c, _ := s.charges.get(e.Charge)
		c.reserved += e.Amount
		s.charges = s.charges.with(e.Charge, c)
		s = s.add(e.Currency, Totals{Pending: e.Amount})
	case RefundCompleted:
		c, _ := s.charges.get(e.Charge)
		c.refunded, c.reserved = c.refunded+e.Amount, c.reserved-e.Released
		s.charges = s.charges.with(e.Charge, c)
		s = s.add(e.Currency, Totals{Refunded: e.Amount, Pending: -e.Released})
	case ChargeDisputed:
		s = s.setDispute(e.Dispute, dispute{e.Charge, e.Amount, e.Currency, Open}, 1)
		s = s.add(e.Currency, Totals{Disputed: e.Amount})
	case DisputeClosed:
		d, _ := s.disputes.get(e.Dispute)
		d.status = e.Status
		holds := 0 // a lost dispute goes on holding its charge
		switch {
		case e.Returned > 0:
			holds = -1
		case e.Returned < 0:
			holds = 1
		}
		s = s.setDispute(e.Dispute, d, holds)
		s = s.add(e.Currency, Totals{Disputed: -e.Returned})
	case AccountSuspended:
		s.suspended = true
	case AccountReopened:
		s.suspended = false
	}
	return s
}

func (s State) setDispute(id string, d dispute, holds int) State {
	c, _ := s.charges.get(d.charge)
	c.disputes += holds
	s.charges = s.charges.with(d.charge, c)
	s.disputes = s.disputes.with(id, d)
	return s
}

func (s State) add(currency string, t Totals) State {
	sum := s.Totals(currency)
	sum.Credit += t.Credit
	sum.Captured += t.Captured
	sum.Refunded += t.Refunded
	sum.Pending += t.Pending
	sum.Disputed += t.Disputed
	s.totals = s.totals.with(currency, sum)
	return s
}
