<?php // Receive notices in PHP.  WEBHOOK_SECRET_FILE=... php -S 127.0.0.1:8000 receiver.php
$secret = base64_decode(substr(preg_split('/\s/', file_get_contents(getenv('WEBHOOK_SECRET_FILE')))[0], strlen('whsec_')));
$limit = 1024 * 1024; // bytes of a body; a notice has less
$body = file_get_contents('php://input', length: $limit + 1); // these bytes are signed: verify them, then parse
if (strlen($body) > $limit) {
    http_response_code(413);
    exit;
}
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$at = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
$expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", $secret, true));
$genuine = false;
foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $given) {
    $genuine = $genuine || hash_equals($expected, $given);
}
if (!$genuine || !is_numeric($at) || abs(time() - (int) $at) > 300) { // five minutes, as a replay would be older
    http_response_code(401);
    exit;
}
['type' => $type, 'data' => $notice] = json_decode($body, true, flags: JSON_THROW_ON_ERROR);
if (!str_starts_with($type, 'operation.')) { // of `b2copy-sync webhook test`, for instance
    http_response_code(204);
    exit;
}
// Here: one transaction that stores the state if the sequence is higher than the stored one, and pays nothing if
// $notice['payload']['account_login'] is not the account of the withdrawal. Then answer 2xx.
error_log(json_encode([$type, $notice['key'], $notice['state'], $notice['sequence']]));
http_response_code(204);
