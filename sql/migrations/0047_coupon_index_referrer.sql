-- A rule's coupons by the employee who brought them. None of its columns changes after the issue, so redeeming, voiding and
-- binding leave it alone and stay HOT; coupons without a referrer are not in it.
create index coupon_index_referrer on only coupon_index (rule_id, referrer, code_id) where referrer is not null;
