-- Which version of its rule a coupon carries: a member's wallet says what each is worth without asking `coupon`. Four
-- bytes where the row had padding.
alter table coupon_receive add column rule_version integer not null default 1;
