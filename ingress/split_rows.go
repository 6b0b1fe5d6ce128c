package ingress

// How the batches of each provider split. Ids are put together so that no two items share one: an id that a provider
// doesn't promise to be unique would make a later item a duplicate, and lose it.
var (
	// https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
	splitSendGrid = &Split{Items: []Items{{
		Array: "[]",
		ID:    []Text{textAt("sg_event_id")},
		Type:  []Text{textAt("event")},
		Key:   []Text{textAt("sg_message_id")},
	}}}

	// https://developers.hubspot.com/docs/api-reference/webhooks-webhooks-v3/guide says that eventId is not guaranteed
	// to be unique. attemptNumber counts up in a retry, so it is in no id, and the batch sent again is another batch.
	// Ids of objects are unique within their type.
	splitHubSpot = &Split{Items: []Items{{
		Array: "[]",
		ID:    []Text{textOf(":", "eventId", "occurredAt", "subscriptionId?", "objectId?", "fromObjectId?", "toObjectId?")},
		Type:  []Text{textAt("subscriptionType")},
		Key: []Text{
			textOf(":", "objectTypeId", "objectId"), textOf(":", "subscriptionType~", "objectId"),
			textOf(":", "subscriptionType~", "fromObjectId"),
		},
	}}}

	// https://developers.facebook.com/docs/graph-api/webhooks/getting-started: WhatsApp and most of Instagram and the
	// pages have changes, Messenger has messaging, or standby for who isn't in charge of a conversation. One change of
	// WhatsApp may hold several messages. A deleted message comes under the id of the message.
	splitMeta = &Split{Items: []Items{
		{
			Array: "entry[].changes[]",
			ID: []Text{
				textOf(":", "value.messages[].id", "value.statuses[].id?", "value.statuses[].status?"),
				textOf(":", "value.statuses[].id", "value.statuses[].status?"),
				textOf(":", "=leadgen", "value.leadgen_id"),
			},
			Type: []Text{textOf(".", "../../object", "field")},
			Key: []Text{
				textAt("value.messages[0].from"), textAt("value.statuses[0].recipient_id"), textAt("../id"),
			},
		},
		splitMessenger("messaging"),
		splitMessenger("standby"),
	}}

	// https://learn.microsoft.com/en-us/graph/api/resources/changenotification. The id is optional.
	splitGraph = &Split{Items: []Items{{
		Array: "value[]",
		ID:    []Text{textAt("id")},
		Type:  []Text{textOf(".", "=lifecycle", "lifecycleEvent"), textAt("changeType")},
		Key:   []Text{textAt("subscriptionId")},
	}}}

	// https://developer.okta.com/docs/concepts/event-hooks/
	splitOkta = &Split{Items: []Items{{
		Array: "data.events[]",
		ID:    []Text{textAt("uuid")},
		Type:  []Text{textAt("eventType")},
		Key:   []Text{textAt("target[0].id"), textAt("actor.id")},
	}}}

	// https://docs.adyen.com/development-resources/webhooks/handle-webhook-events: duplicates have the same eventCode
	// and pspReference; success may be another.
	splitAdyen = &Split{Items: []Items{{
		Array: "notificationItems[]",
		ID: []Text{textOf(":", "NotificationRequestItem.pspReference", "NotificationRequestItem.eventCode",
			"NotificationRequestItem.success?")},
		Type: []Text{textAt("NotificationRequestItem.eventCode")},
		Key:  []Text{textAt("NotificationRequestItem.originalReference"), textAt("NotificationRequestItem.pspReference")},
	}}}

	// https://developers.asana.com/docs/webhooks-guide: events have no id, and a heartbeat has no events.
	splitAsana = &Split{Items: []Items{{
		Array: "events[]",
		Type:  []Text{textOf(".", "resource.resource_type", "action"), textAt("action")},
		Key:   []Text{textAt("resource.gid")},
	}}}

	// https://mailchimp.com/developer/transactional/docs/webhooks/: _id is the message's, so that every open and every
	// click of it has the same. ip and url tell two of one second apart.
	splitMandrill = &Split{Form: "mandrill_events", Items: []Items{{
		Array: "[]",
		ID:    []Text{textOf(":", "_id", "event", "ts", "ip?", "url?")},
		Type:  []Text{textAt("event"), textOf(".", "type", "action"), textAt("type")},
		Key:   []Text{textAt("_id"), textAt("reject.email")},
	}}}

	// https://developers.klaviyo.com/en/docs/working_with_system_webhooks
	splitKlaviyo = &Split{Items: []Items{{
		Array: "data[]",
		ID:    []Text{textOf(":", "external_id", "topic")},
		Type:  []Text{textAt("topic")},
		Key:   []Text{textAt("payload.data.relationships.profile.data.id")},
	}}}

	// https://developer.gocardless.com/api-reference/#appendix-webhooks
	splitGoCardless = &Split{Items: []Items{{
		Array: "events[]",
		ID:    []Text{textAt("id")},
		Type:  []Text{textOf(".", "resource_type", "action")},
		Key: []Text{
			textAt("links.payment"), textAt("links.refund"), textAt("links.subscription"), textAt("links.mandate"), textAt("links.payout"),
			textAt("links.billing_request"), textAt("links.customer"), textAt("links.creditor"),
		},
	}}}

	// https://developers.sparkpost.com/api/webhooks/: each event in an object of its class. A test has none.
	splitSparkPost = &Split{Items: []Items{{
		Array: "[]",
		ID: []Text{
			textAt("msys.message_event.event_id"), textAt("msys.track_event.event_id"), textAt("msys.gen_event.event_id"),
			textAt("msys.unsubscribe_event.event_id"), textAt("msys.relay_event.event_id"), textAt("msys.ab_test_event.event_id"),
		},
		Type: []Text{
			textAt("msys.message_event.type"), textAt("msys.track_event.type"), textAt("msys.gen_event.type"),
			textAt("msys.unsubscribe_event.type"), textAt("msys.relay_event.type"), textAt("msys.ab_test_event.type"),
		},
		Key: []Text{
			textAt("msys.message_event.message_id"), textAt("msys.track_event.message_id"), textAt("msys.gen_event.message_id"),
			textAt("msys.unsubscribe_event.message_id"),
		},
	}}}

	// https://developer.xero.com/documentation/guides/webhooks/overview/: no id, but all that an event says.
	splitXero = &Split{Items: []Items{{
		Array: "events[]",
		ID:    []Text{textOf(":", "resourceId", "tenantId?", "eventCategory?", "eventType", "eventDateUtc")},
		Type:  []Text{textOf(".", "eventCategory", "eventType")},
		Key:   []Text{textAt("resourceId")},
	}}}

	// https://developer.intuit.com/app/developer/qbo/docs/develop/webhooks: the older shape, whose entities have no id
	// of the event, and CloudEvents.
	splitQuickBooks = &Split{Items: []Items{
		{
			Array: "eventNotifications[].dataChangeEvent.entities[]",
			ID:    []Text{textOf(":", "id", "name", "operation", "lastUpdated", "deletedId?", "../realmId")},
			Type:  []Text{textOf(".", "name", "operation")},
			Key:   []Text{textOf(":", "../realmId", "name", "id")},
		},
		{
			Array: "[]",
			ID:    []Text{textAt("id")},
			Type:  []Text{textAt("type")},
			Key:   []Text{textOf(":", "intuitaccountid", "intuitentityid")},
		},
	}}
)

// splitMessenger is https://developers.facebook.com/docs/messenger-platform/reference/webhook-events.
func splitMessenger(array string) Items {
	return Items{
		Array: "entry[]." + array + "[]",
		ID: []Text{
			textOf(":", "message.mid", "="+array, "message.is_echo?", "message.is_deleted?"),
			textOf(":", "message_edit.mid", "="+array, "=edit", "message_edit.num_edit"),
			textOf(":", "postback.mid", "="+array, "=postback"),
			textOf(":", "reaction.mid", "="+array, "sender.id?", "reaction.action", "reaction.reaction?", "timestamp"),
		},
		Type: []Text{textOf(".", "../../object", "="+array)},
		Key:  []Text{textOf(":", "../id", "sender.id"), textAt("../id")},
	}
}
