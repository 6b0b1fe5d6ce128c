package billing

import "github.com/penstock-io/penstock/domain"

// Types is everything that stands in the log or comes in as a command. Names here are history: add to them, never
// change one.
var Types = domain.Types{
	Events: []domain.EventType{
		domain.EventOf[CreditGranted]("billing.credit.granted"),
		domain.EventOf[ChargeCaptured]("billing.charge.captured"),
		domain.EventOf[RefundRequested]("billing.refund.requested"),
		domain.EventOf[RefundCompleted]("billing.refund.completed"),
		domain.EventOf[ChargeDisputed]("billing.charge.disputed"),
		domain.EventOf[DisputeClosed]("billing.dispute.closed"),
		domain.EventOf[AccountSuspended]("billing.account.suspended"),
		domain.EventOf[AccountReopened]("billing.account.reopened"),
		domain.EventOf[ChargeLinked]("charge.linked"),
		domain.EventOf[DisputeWaiting]("charge.dispute.waiting"),
		domain.EventOf[DisputeLocated]("charge.dispute.located"),
	},
	Commands: []domain.CommandType{
		domain.CommandOf("GrantCredit", GrantCredit.stream),
		domain.CommandOf("RequestRefund", RequestRefund.stream),
		domain.CommandOf("SuspendAccount", SuspendAccount.stream),
		domain.CommandOf("ReopenAccount", ReopenAccount.stream),
		// The policies ask for these. They stand open to callers too, for facts that no webhook brought.
		domain.CommandOf("RecordCharge", RecordCharge.stream),
		domain.CommandOf("RecordRefund", RecordRefund.stream),
		domain.CommandOf("RecordDispute", RecordDispute.stream),
		domain.CommandOf("CloseDispute", CloseDispute.stream),
		domain.CommandOf("LinkCharge", LinkCharge.stream),
		domain.CommandOf("LocateDispute", LocateDispute.stream),
	},
}
