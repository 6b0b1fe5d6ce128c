package billing

// The events of an account. Amounts are in minor units of the currency. Each event says by how much it moves a
// total and what the balance is afterwards, so that a reader needs no other event to keep up.

// CreditGranted adds credit to the balance.
type CreditGranted struct {
	Customer string `json:"customer" doc:"Customer the credit was granted to" example:"cus_9"`
	Amount   int64  `json:"amount" doc:"Credit granted, in minor units" example:"500"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words"`
	Balance  int64  `json:"balance" doc:"Balance in this currency afterwards"`
}

// ChargeCaptured adds captured money to the balance. A charge captured in several parts has one event for each.
type ChargeCaptured struct {
	Customer string `json:"customer" doc:"Customer who was charged" example:"cus_9"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Amount   int64  `json:"amount" doc:"Captured now, in minor units" example:"4200"`
	Captured int64  `json:"captured" doc:"Captured of this charge so far; equals amount the first time" example:"4200"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Balance  int64  `json:"balance" doc:"Balance in this currency afterwards"`
}

// RefundRequested reserves a part of a charge. The balance moves when Stripe reports the refund.
type RefundRequested struct {
	Customer string `json:"customer" doc:"Customer the refund is for" example:"cus_9"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Amount   int64  `json:"amount" doc:"Requested now, in minor units" example:"1200"`
	Pending  int64  `json:"pending" doc:"Requested of this charge and not yet reported by Stripe"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Balance  int64  `json:"balance" doc:"Balance in this currency, which a request doesn't move"`
}

// RefundCompleted takes refunded money off the balance, and off what was reserved for it. Stripe doesn't say which
// request a refund answers; every refund uses up the reservations of its charge first.
type RefundCompleted struct {
	Customer string `json:"customer" doc:"Customer who was refunded" example:"cus_9"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Amount   int64  `json:"amount" doc:"Refunded now, in minor units" example:"1200"`
	Refunded int64  `json:"refunded" doc:"Refunded of this charge so far"`
	Released int64  `json:"released" doc:"The part of amount that had been reserved by requests"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Balance  int64  `json:"balance" doc:"Balance in this currency afterwards"`
}

// ChargeDisputed takes a disputed amount off the balance.
type ChargeDisputed struct {
	Customer string `json:"customer" doc:"Customer whose charge is disputed" example:"cus_9"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Amount   int64  `json:"amount" doc:"Disputed amount, in minor units" example:"4200"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Balance  int64  `json:"balance" doc:"Balance in this currency afterwards"`
}

// DisputeClosed tells how a dispute ended. A won one gives the amount back to the balance, a lost one leaves it off.
type DisputeClosed struct {
	Customer string `json:"customer" doc:"Customer whose charge was disputed" example:"cus_9"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Status   string `json:"status" doc:"How it ended" enum:"won,lost"`
	Amount   int64  `json:"amount" doc:"Disputed amount, in minor units" example:"4200"`
	// Returned is the amount when won and 0 when lost. A bank that reverses a dispute already won makes it negative.
	Returned int64  `json:"returned" doc:"What comes back to the balance; negative when a win is reversed"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Balance  int64  `json:"balance" doc:"Balance in this currency afterwards"`
}

// AccountSuspended stops further credit.
type AccountSuspended struct {
	Customer string `json:"customer" doc:"Customer whose account was suspended" example:"cus_9"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words"`
}

// AccountReopened ends a suspension.
type AccountReopened struct {
	Customer string `json:"customer" doc:"Customer whose account was reopened" example:"cus_9"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words"`
}
