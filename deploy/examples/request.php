<?php // Request the fees of a withdrawal from PHP, in the CRM's own transaction.
//   CRM_DSN='pgsql:host=db.internal;dbname=crm;user=crm' php request.php W1 123456      (or sqlite:/path/crm.sqlite)
[, $withdrawal, $login] = $argv;
$crm = new PDO(getenv('CRM_DSN'), options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$crm->beginTransaction(); // without commit, nothing was requested
$crm->prepare("UPDATE withdrawals SET state = 'fees' WHERE id = ?")->execute([$withdrawal]);
$crm->prepare("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', ?)")
    ->execute([json_encode(['account_login' => $login, 'request_id' => $withdrawal], JSON_THROW_ON_ERROR)]);
$crm->commit();
